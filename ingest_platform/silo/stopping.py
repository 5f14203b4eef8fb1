"""Being told to end in the midst of an import: whatever waits looks here, and hands its work back.

Knows no import; a wait that ends this way is nobody's fault, so the release keeps its attempts.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress

from ingest_platform.errors import TransientError

# A wait that nothing can wake looks up so often: of a container's 30 s between SIGTERM and SIGKILL that is
# little, and five looks a second cost nothing.
LOOK_SECONDS = 0.2
NEVER = threading.Event()  # nobody sets it


class Stopped(TransientError):
    """This process was told to end. Whoever comes next takes the work up."""


def raise_if_stopped(stop: threading.Event, what: str) -> None:
    if stop.is_set():
        raise Stopped(f"{what}: told to end. Nothing was used, the published index stays; it is tried again.")


def unless_stopped[T](stop: threading.Event, call: Callable[[], T], *, what: str) -> T:
    """The answer of `call`, or Stopped. A call that nothing can interrupt is left behind in its thread."""
    raise_if_stopped(stop, what)
    answer: Future[T] = Future()
    threading.Thread(target=_answered, args=(answer, call), name="asking", daemon=True).start()
    while not wait([answer], timeout=LOOK_SECONDS).done:
        raise_if_stopped(stop, what)
    return answer.result()


def _answered[T](answer: Future[T], call: Callable[[], T]) -> None:
    try:
        answer.set_result(call())
    except BaseException as error:  # noqa: BLE001 - it is raised where the answer is taken
        answer.set_exception(error)


def heeding(
    stop: threading.Event,
    pieces: Iterable[bytes],
    *,
    what: str,
    cut: Callable[[], None] = lambda: None,
) -> Iterator[bytes]:
    """The same pieces, or Stopped. `cut` is called from another thread to wake who waits for the next one."""
    with _cut_by(stop, cut):
        try:
            for piece in pieces:
                raise_if_stopped(stop, what)
                yield piece
        except Exception:
            # A connection that was cut breaks in many ways: none of them is the server's fault.
            raise_if_stopped(stop, what)
            raise
        # And one of them looks like the end of the body.
        raise_if_stopped(stop, what)


@contextmanager
def _cut_by(stop: threading.Event, cut: Callable[[], None]) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_SECONDS):
            if stop.is_set():
                # It has come to its end meanwhile.
                with suppress(OSError, ValueError, RuntimeError):
                    cut()
                return

    threading.Thread(target=watch, name="stop", daemon=True).start()
    try:
        yield
    finally:
        done.set()

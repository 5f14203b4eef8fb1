"""One engine process in a group of its own, which ends with it, at its time-out, and with the importer.

Knows exit codes as SILO gives them: 0 well, 1 the inputs, 2 anything else, negative a signal.
"""

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ingest_platform.silo.engines.contract import EngineFailed, EngineRefused, EngineTimedOut, tail
from ingest_platform.silo.stopping import LOOK_SECONDS, NEVER, raise_if_stopped

# SILO ends at once if an unknown variable begins with SILO_ or RHYDB_, so a child gets only what it needs.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
REFUSED = 1
# A killed process ends when its system call does: milliseconds, or the seconds that a network disk sleeps.
DYING_SECONDS = 30.0
# Leads the group and waits for the end of its input, which comes when the importer dies, also by kill -9.
# Not PR_SET_PDEATHSIG: that reaches the engine alone, and not what it has started.
WATCHER = ("/bin/sh", "-c", "read -r _; kill -KILL 0")


def scrubbed(environ: Mapping[str, str], **more: str) -> dict[str, str]:
    """The environment of an engine."""
    return {name: environ[name] for name in INHERITED if name in environ} | more


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
    timeout_seconds: float,
    stop: threading.Event = NEVER,
) -> str:
    """Run to the end, with its output in `log`, and return the log's tail.

    EngineRefused, EngineFailed, EngineTimedOut; Stopped soon after `stop` is set. Whichever way
    this returns, also by an interrupt, the whole process group is dead: nothing is written later. An
    importer that is killed takes the group along.
    """
    raise_if_stopped(stop, command[0])
    try:
        with log.open("wb") as output, _group() as group:
            process = subprocess.Popen(  # noqa: S603 - the command is configuration
                command,
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=group,
            )
            ended = _ended(process.pid, timeout_seconds, stop)
    except OSError as error:
        raise EngineFailed(f"{command[0]}: cannot be started: {error}.", "") from error
    code = process.wait()
    if not ended:
        raise_if_stopped(stop, f"{command[0]}, killed")
        raise EngineTimedOut(f"{command[0]}: not done after {timeout_seconds:g} s, killed.", tail(log))
    _raise_if_failed(command[0], code, tail(log))
    return tail(log)


@contextmanager
def _group() -> Iterator[int]:
    """A process group to start processes in: none of them outlives the block, or this process."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb"):
        try:
            watcher = subprocess.Popen(WATCHER, env={}, stdin=reader, process_group=0)  # noqa: S603 - ours
        finally:
            os.close(reader)
        try:
            yield watcher.pid
        finally:
            _kill_group(watcher.pid)
            watcher.wait()


def _ended(pid: int, timeout_seconds: float, stop: threading.Event) -> bool:
    """True when the process ends within the time and before `stop` is set; it is not reaped."""
    deadline = time.monotonic() + timeout_seconds
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not poll.poll(1000 * max(0.0, min(LOOK_SECONDS, deadline - time.monotonic()))):
            if stop.is_set() or time.monotonic() >= deadline:
                return False
        return True
    finally:
        os.close(descriptor)


def _kill_group(group: int) -> None:
    """Kill all members of an unreaped child's group, and wait until none runs any more."""
    # While the leader is not reaped its number cannot belong to anybody else.
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + DYING_SECONDS
    while _runs(group) and time.monotonic() < deadline:
        time.sleep(0.005)


def _runs(group: int) -> bool:
    """True while a member of the group is more than a zombie, which only its parent can end."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if int(its_group) == group and state not in "ZX":
            return True
    return False


def _raise_if_failed(program: str, code: int, log_tail: str) -> None:
    if code == REFUSED:
        raise EngineRefused(f"{program}: does not take the inputs (exit 1).", log_tail)
    if code < 0:
        raise EngineFailed(f"{program}: died of signal {-code}, {signal.strsignal(-code)}.", log_tail)
    if code > 0:
        raise EngineFailed(f"{program}: failed with exit {code}.", log_tail)

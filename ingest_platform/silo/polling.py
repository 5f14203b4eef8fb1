"""All organisms asked within the time of one sensor tick: a backend that hangs delays no other organism."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from ingest_platform.errors import TransientError
from ingest_platform.silo.discover import Polled
from ingest_platform.silo.model import Organism, Timeouts

# Dagster ends a sensor evaluation after 60 s.
TICK_BUDGET_SECONDS = 45.0
# Each waits for a backend, not for a core; 20 organisms whose backend hangs still fit into a tick.
POLLS_AT_ONCE = 20
# A head costs the backend a look at its counts; the rest of the tick is for the ledger.
HEAD = Timeouts(connect_seconds=10, read_seconds=30, total_seconds=40)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the backends said, by organism. Each organism is in one of the two."""

    polled: Mapping[str, Polled]
    failed: Mapping[str, str]


def poll_all(
    organisms: Sequence[Organism],
    poll: Callable[[Organism], Polled],
    *,
    within_seconds: float = TICK_BUDGET_SECONDS,
) -> Answers:
    """Call `poll` with each organism, its time-outs cut to HEAD.

    A failure is what another try may mend; anything else, as a database that is away, is raised.
    """
    if not organisms:
        return Answers({}, {})
    threads = ThreadPoolExecutor(min(POLLS_AT_ONCE, len(organisms)), thread_name_prefix="poll")
    try:
        asked = {
            organism.id: threads.submit(poll, organism.model_copy(update={"timeouts": HEAD}))
            for organism in organisms
        }
        wait(asked.values(), timeout=within_seconds)
        polled: dict[str, Polled] = {}
        failed: dict[str, str] = {}
        for name, answer in asked.items():
            try:
                polled[name] = answer.result(timeout=0)
            except TimeoutError:
                failed[name] = f"{name}: no answer within {within_seconds:g} s. It is asked again."
            except TransientError as error:
                failed[name] = str(error)
        return Answers(polled, failed)
    finally:
        # A thread that still waits ends with its time-out; the tick does not wait for it.
        threads.shutdown(wait=False, cancel_futures=True)

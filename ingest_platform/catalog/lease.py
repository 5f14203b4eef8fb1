"""A claim while it is worked on: its lease kept alive, and handed back where no commit came of it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from ingest_platform.catalog.claim import LEASE, LONGEST_BATCH
from ingest_platform.catalog.counters import Increments
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Claim, Outcome
from ingest_platform.errors import LostLease

# How a database says that it is not there at this moment.
LEDGER_AWAY = (OperationalError, InterfaceError)
# The disk, the memory and the ledger are ours: what was claimed is not to blame for them.
OUR_OWN_FAULT = (OSError, MemoryError, SQLAlchemyError)
# A restart of the database is over within a minute. Later the lease has run out, and whoever comes next
# takes the partition over all the same; the objects have then used an attempt.
HAND_BACK_WITHIN = LEASE
HAND_BACK_EVERY_SECONDS = 1.0


@contextmanager
def kept_alive(
    catalog: Catalog, claim: Claim, *, lease: timedelta = LEASE, longest: timedelta = LONGEST_BATCH
) -> Iterator[None]:
    """Renew the lease until the block ends. A lost lease is found out by the commit, which is fenced."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(lease.total_seconds() / 3):
            try:
                catalog.heartbeat(claim, lease, longest)
            except LostLease:
                return
            except LEDGER_AWAY:
                # The next beat tries again; if the lease runs out meanwhile, the commit is refused.
                continue

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def hand_back(
    catalog: Catalog,
    claim: Claim,
    outcomes: Sequence[Outcome],
    *,
    counters: Callable[[], Increments] = dict,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """fail, as soon as the ledger answers: its outage must not cost the objects an attempt. As fail.

    `counters` is asked at each try, for what it took until then.
    """
    until = time.monotonic() + HAND_BACK_WITHIN.total_seconds()
    while True:
        try:
            return catalog.fail(claim, outcomes, counters=counters())
        except LEDGER_AWAY:
            if stop() or time.monotonic() > until:
                raise
        time.sleep(HAND_BACK_EVERY_SECONDS)


def is_blameless(error: BaseException) -> bool:
    """Whether a claim that ended so keeps its attempts: our own fault, or an interruption.

    What is not foreseen may be the doing of what was claimed.
    """
    return isinstance(error, OUR_OWN_FAULT) or not isinstance(error, Exception)

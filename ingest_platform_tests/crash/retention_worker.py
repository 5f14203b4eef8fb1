"""A purge that dies, or falls asleep, where its order says.

`python -m ingest_platform_tests.crash.retention_worker ORDER` carries out one order (JSON) in a process of
its own: a real death needs a real process. The same `work` runs in the test for the purge that comes after.
"""

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, literal

from ingest_platform.catalog.engine import NowExpression
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.operations.retention import Policy, purge
from ingest_platform.settings import Settings
from ingest_platform.storage.store import store_of


@dataclass(frozen=True, slots=True)
class Order:
    """What a purge shall take, and where it ends."""

    environ: Mapping[str, str]
    source: str
    cutoff: str  # ISO
    hours_ahead: float = 0  # of the ledger's clock: the lease of an earlier purge is over
    fate: str = ""  # "KILL" or "STOP"
    point: str = ""
    passage: int = 1  # at which passage of the point


def work(order: Order, at: Callable[[str], None] = lambda _point: None) -> list[str]:
    """The partitions that this purge brought to their end."""
    settings = Settings.from_environment(order.environ)
    now = datetime.now(UTC) + timedelta(hours=order.hours_ahead)
    policy = Policy(order.source, now - datetime.fromisoformat(order.cutoff), keep_latest=0)
    with Catalog.open(settings.catalog_url, now=_clock(order.hours_ahead), at=at) as catalog:
        purged = purge(catalog, store_of(settings), [policy], now=now, owner="purge", at=at)
    if purged.error is not None:
        raise purged.error
    return [done.partition for done in purged.done]


def _clock(hours_ahead: float) -> NowExpression | None:
    if not hours_ahead:
        return None

    def read() -> ColumnElement[datetime]:
        return literal(datetime.now(UTC) + timedelta(hours=hours_ahead), UtcTime())

    return read


def fated(order: Order) -> Callable[[str], None]:
    """An `at` that ends this process, or stops it, at the order's point."""
    passages: Counter[str] = Counter()
    lock = threading.Lock()

    def at(point: str) -> None:
        with lock:
            passages[point] += 1
            if order.fate and point == order.point and passages[point] == order.passage:
                # At this thread: a signal to the process lets it run on until another thread has stopped it.
                signal.pthread_kill(threading.get_ident(), signal.Signals[f"SIG{order.fate}"])

    return at


def encoded(order: Order) -> str:
    return json.dumps(asdict(order))


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    sys.stdout.write(json.dumps(work(order, fated(order))) + "\n")


if __name__ == "__main__":
    main()

"""A reconcile that dies, or falls asleep, where its order says.

`python -m ingest_platform_tests.crash.reconcile_worker ORDER` carries out one order (JSON) in a process of
its own: a real death needs a real process. The same `work` runs in the test for the one that comes after.
"""

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, literal

from ingest_platform.catalog.engine import NowExpression
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.operations.reconcile import AGE_GUARD, reconcile
from ingest_platform.settings import Settings
from ingest_platform.storage.store import store_of


@dataclass(frozen=True, slots=True)
class Order:
    """What a reconcile works on, and where it ends."""

    environ: Mapping[str, str]
    hours_ahead: float = 0  # of the ledger's clock: the lease of an earlier reconcile is over
    fate: str = ""  # "KILL" or "STOP"
    point: str = ""
    passage: int = 1  # at which passage of the point


def work(order: Order, at: Callable[[str], None] = lambda _point: None) -> dict[str, Any]:
    """What it found and did. Whatever lies in the store is old enough."""
    settings = Settings.from_environment(order.environ)
    later = datetime.now(UTC) + AGE_GUARD + timedelta(hours=1)
    with Catalog.open(settings.catalog_url, now=clock(order.hours_ahead), at=at) as catalog:
        found = reconcile(catalog, store_of(settings), now=later, apply=True, owner="reconcile", at=at)
    return found.facts()


def clock(hours_ahead: float) -> NowExpression | None:
    """The database's clock, or one so many hours ahead."""
    if not hours_ahead:
        return None

    def read() -> ColumnElement[datetime]:
        return literal(datetime.now(UTC) + timedelta(hours=hours_ahead), UtcTime())

    return read


def fated(order: Order) -> Callable[[str], None]:
    """An `at` that ends this process, or stops it, at the order's point."""
    passages: Counter[str] = Counter()

    def at(point: str) -> None:
        passages[point] += 1
        if order.fate and point == order.point and passages[point] == order.passage:
            # At this thread: a signal to the process lets it run on until another thread has stopped it.
            signal.pthread_kill(threading.get_ident(), signal.Signals[f"SIG{order.fate}"])

    return at


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    sys.stdout.write(json.dumps(work(order, fated(order))) + "\n")


def encoded(order: Order) -> str:
    return json.dumps(asdict(order))


if __name__ == "__main__":
    main()

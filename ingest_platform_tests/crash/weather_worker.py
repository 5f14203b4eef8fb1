"""A weather worker that dies, or falls asleep, where its order says: list, see, request, claim … commit.

`python -m ingest_platform_tests.crash.weather_worker` imports what a worker needs, reads one order (a line of
JSON) from its input and carries it out with the real parts: a real death needs a real process. The same
`work` runs inside the test's own process for the worker that comes after.
"""

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import ColumnElement, literal
from sqlalchemy.exc import OperationalError

from ingest_platform.catalog import engine as database
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.settings import Settings
from ingest_platform.storage.bucket import Bucket, Listed
from ingest_platform.storage.store import store_of
from ingest_platform.weather import feed
from ingest_platform.weather.config import load_models
from ingest_platform.weather.ingest import Rails, ingest_partition
from ingest_platform.weather.model import Model

# When the mirrors' files are of; the ledger's clock is the database's own.
NOW = datetime(2026, 7, 18, 11, 58, tzinfo=UTC)
# Icechunk has no hook between the two objects of an empty repository: a thread looks for the first.
FIRST_OBJECT = "create: after its first object"
# Five levels, an instant and a window that lead 0 lacks: 13 messages in two leads are enough to go wrong.
FORECAST_PARAMETERS = ("temperature", "temperature_2m", "precipitation_recent")


class Interrupted(Exception):
    """An error that nobody foresaw, at a point where a test wants it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker shall do, and where it ends."""

    environ: Mapping[str, str]
    models: tuple[str, ...] = ("hrrr",)
    owner: str = "worker"
    hours_ahead: float = 0  # of the ledger's clock: leases and waits of an earlier worker are over
    by_hand: str | None = None  # partition that a person asked for: it alone is listed, nobody requests it
    daemon: bool = False  # as `ingest run`: takes what is due, whoever was asked to
    fate: str | None = None  # "kill" or "stop"
    point: str = ""
    passage: int = 1  # how often the point is passed before
    raise_at: str = ""  # an error here brings the worker to `fail`
    idle_seconds: float | None = None  # after which PostgreSQL ends a transaction of a sleeper


@dataclass(slots=True)
class Result:
    """What a worker that came to its end has to tell."""

    published: int = 0
    errors: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)  # source objects and ranges


@cache
def model(name: str) -> Model:
    """The shipped model, of the forecast only some parameters."""
    (shipped,) = load_models(None, only=[name])
    if name != "hrrr":
        return shipped
    some = tuple(p for p in shipped.parameters if p.name in FORECAST_PARAMETERS)
    return shipped.model_copy(update={"parameters": some})


def work(order: Order, at: Callable[[str], None] = lambda _point: None) -> Result:
    """One shift over the real parts: a sensor's tick, then the runs that it asks for."""
    result = Result()
    with open_rails(order, at, result.reads) as rails:
        for described in map(model, order.models):
            _discover(rails, described, order.by_hand)
            for partition in _due(rails.catalog, described, order):
                report = ingest_partition(rails, described, partition, owner=order.owner)
                at("before the materialization")
                result.published += report.published
                result.errors += report.errors
    return result


class open_rails:  # noqa: N801 - used as a function
    """Rails as the platform opens them, told to `at`, with a ledger clock and watched source buckets."""

    def __init__(self, order: Order, at: Callable[[str], None], reads: list[str]) -> None:
        settings = Settings.from_environment(order.environ)
        self.catalog = Catalog.open(settings.catalog_url, now=_clock(order.hours_ahead), at=at)
        rails = feed.rails_over(self.catalog, store_of(settings), settings, clock=lambda: NOW)
        watched = cache(lambda name: WatchedBucket(rails.open_bucket(name), at, reads))
        self.rails = replace(rails, at=at, open_bucket=watched)

    def __enter__(self) -> Rails:
        return self.rails

    def __exit__(self, *_: object) -> None:
        self.catalog.close()


def _discover(rails: Rails, described: Model, by_hand: str | None) -> None:
    if by_hand is None:
        feed.poll(rails, described)
    else:
        feed.see_partition(rails, described, by_hand)


def _due(catalog: Catalog, described: Model, order: Order) -> Sequence[str]:
    """Why a worker goes to a partition: it was sent, it looked itself, or the sensor's request sent it."""
    if order.by_hand is not None:
        return [order.by_hand]
    if order.daemon:
        return catalog.due_partitions(described.source_name)
    return [request.partition for request in catalog.request(described.source_name)]


def _clock(hours_ahead: float) -> database.NowExpression | None:
    """The database's clock, or one so many hours ahead: a lease runs out without anybody waiting for it."""
    if not hours_ahead:
        return None

    def read() -> ColumnElement[datetime]:
        return literal(datetime.now(UTC) + timedelta(hours=hours_ahead), UtcTime())

    return read


@dataclass(frozen=True, slots=True)
class WatchedBucket:
    """A source bucket that takes down what is read of it, and passes a point at each request."""

    inner: Bucket
    at: Callable[[str], None]
    reads: list[str]

    @property
    def name(self) -> str:
        return self.inner.name

    def list(self, prefix: str, *, start_after: str | None = None) -> "Iterator[list[Listed]]":
        for page in self.inner.list(prefix, start_after=start_after):
            self.at("after list")
            yield page

    def find(self, key: str) -> Listed | None:
        return self.inner.find(key)

    def read(self, key: str, *, start: int, length: int, etag: str | None) -> bytes:
        self.reads.append(f"{key} {etag} {start}+{length}")
        self.at(f"read {key}")
        self.at("read")
        return self.inner.read(key, start=start, length=length, etag=etag)

    def read_all(self, key: str, *, etag: str | None = None) -> tuple[bytes, Listed]:
        self.reads.append(f"{key} {etag}")
        return self.inner.read_all(key, etag=etag)


def raising_at(point: str, error: Callable[[str], Exception] = Interrupted) -> Callable[[str], None]:
    """An `at` that raises once, at the first passage of the point."""
    left = [point]

    def at(passed: str) -> None:
        if passed in left:
            left.remove(passed)
            raise error(f"interrupted at {passed}")

    return at


def database_error(what: str) -> OperationalError:
    """As a driver raises when its server went away."""
    return OperationalError(what, None, ConnectionError("server closed the connection unexpectedly"))


def _fated(order: Order) -> Callable[[str], None]:
    """An `at` that ends this process, or stops it, at the order's point."""
    passages: Counter[str] = Counter()
    lock = threading.Lock()
    error = raising_at(order.raise_at)
    end = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}.get(order.fate or "")

    def at(point: str) -> None:
        with lock:
            passages[point] += 1
        if point == "after claim" and order.point == FIRST_OBJECT:
            threading.Thread(target=_die_at_first_object, args=(order,), daemon=True).start()
        if end is not None and point == order.point and passages[point] == order.passage:
            # At this thread: a signal to the process lets it run on until another thread has stopped it.
            signal.pthread_kill(threading.get_ident(), end)
        error(point)

    return at


def _die_at_first_object(order: Order) -> None:
    folder = Path(unquote(urlsplit(Settings.from_environment(order.environ).store_url).path))
    while not any("#" not in path.name for path in folder.glob("weather.*/*/*/snapshots/*")):
        continue
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Wait for the order, so that the imports are behind us when it comes."""
    for needed in ("eccodes_library", "grib", "publish"):
        __import__(f"ingest_platform.weather.{needed}")
    model("hrrr")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    text = sys.stdin.readline()
    if not text:
        return
    order = Order(**json.loads(text))
    if order.idle_seconds is not None:
        database.IDLE_IN_TRANSACTION_TIMEOUT = timedelta(seconds=order.idle_seconds)
    result = work(order, _fated(order))
    sys.stdout.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    main()

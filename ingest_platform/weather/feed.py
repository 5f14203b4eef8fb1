"""A model as a feed: poll its source when a listing is due, work off what the ledger calls due.

The same functions serve Dagster's sensor and runs, `ingest once` for cron and `ingest run` for low latency.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from sqlalchemy.exc import OperationalError

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.errors import IngestError, TransientError
from ingest_platform.settings import Settings
from ingest_platform.storage.bucket import Bucket, open_bucket
from ingest_platform.storage.patience import Patience
from ingest_platform.storage.store import Store, store_of
from ingest_platform.weather.discover import Cursor, Discovery, discover, partition_prefixes, sightings
from ingest_platform.weather.ingest import Rails, Report, ingest_partition
from ingest_platform.weather.model import Model

# Dagster ends a sensor evaluation after 60 s; a listing that stops at 40 s leaves time to answer.
LISTING_BUDGET_SECONDS = 40.0
# With the listing's 40 s it stays below Dagster's 60 s; what takes longer is the ledger's to try again.
REQUEST_BUDGET_SECONDS = 15.0
# `ingest run` lists twenty times as often as the poll interval says: MRMS every 6 s, which with
# half a second of work gives publish → visible in about 4 s at the median.
FOLLOW_SPEED_UP = 20


@contextmanager
def open_rails(settings: Settings, *, clock: Callable[[], datetime] | None = None) -> Iterator[Rails]:
    """Everything an ingest runs on, from the environment's settings; closed at the end."""
    catalog = Catalog.open(settings.catalog_url)
    try:
        yield rails_over(catalog, store_of(settings), settings, clock=clock)
    finally:
        catalog.close()


def rails_over(
    catalog: Catalog, store: Store, settings: Settings, *, clock: Callable[[], datetime] | None = None
) -> Rails:
    """Rails over parts that somebody else opened. PermanentError if the store belongs to another ledger."""
    if catalog.has_published():
        store.verify(catalog.ledger_id)
    else:
        store.bind(catalog.ledger_id)
    return Rails(
        catalog=catalog,
        store=store,
        open_bucket=_buckets(settings),
        scratch=Path(settings.home) / "scratch",
        parallel_downloads=settings.parallel_downloads,
        decode_threads=os.cpu_count() or 1,
        clock=clock or (lambda: datetime.now(UTC)),
    )


def poll(rails: Rails, model: Model, *, every: timedelta | None = None) -> Discovery | None:
    """List what may be new at the source and tell the ledger; None if a listing is not due yet.

    `every` is the time between two listings; without it the model is listed now. The cursor lies in the
    ledger, so sensor, cron and daemon share it. A failed listing raises and moves nothing.
    """
    now = rails.clock()
    cursor = Cursor.parse(rails.catalog.cursor(model.source_name))
    if every is not None and not cursor.due(now, every):
        return None
    end = time.monotonic() + LISTING_BUDGET_SECONDS
    found = discover(
        model,
        rails.open_bucket,
        lambda seen: rails.catalog.see(model.source_name, seen),
        now=now,
        cursor=cursor,
        budget=lambda: end - time.monotonic(),
    )
    rails.catalog.keep_cursor(model.source_name, found.cursor.text())
    return found


def see_partition(rails: Rails, model: Model, partition: str) -> int:
    """List one partition, whatever the poll interval says and however old it is; how many became pending."""
    pending = 0
    for prefix in partition_prefixes(model, partition):
        for page in rails.open_bucket(prefix.bucket).list(prefix.prefix):
            seen = [s for s in sightings(model, prefix.bucket, page) if s.partition == partition]
            pending += rails.catalog.see(model.source_name, seen)
    return pending


def once(rails: Rails, models: Sequence[Model], *, owner: str) -> list[Report]:
    """Discover and ingest everything that is due, fast feeds first. A failing model stops no other."""
    reports = []
    for model in sorted(models, key=lambda m: m.cadence_minutes):
        try:
            while (found := poll(rails, model)) is not None and not found.complete:
                continue
            reports += work_off(rails, model, owner=owner)
        except IngestError as error:
            reports.append(Report(model, "", errors=[f"{model.id}: {error}"]))
    return reports


def work_off(rails: Rails, model: Model, *, owner: str) -> list[Report]:
    """Ingest every partition with due work and no other worker, newest first."""
    reports = []
    for partition in rails.catalog.due_partitions(model.source_name):
        try:
            reports.append(ingest_partition(rails, model, partition, owner=owner))
        except TransientError as error:
            reports.append(Report(model, partition, errors=[str(error)]))
    return reports


def follow(
    rails: Rails,
    models: Sequence[Model],
    *,
    owner: str,
    interval_seconds: float | None,
    stop: threading.Event,
    report: Callable[[Report], None],
) -> None:
    """Poll and ingest until `stop` is set, one thread a model, so that a GFS cycle never delays radar.

    What is not foreseen in one thread stops them all and is raised: a supervisor's restart is better than a
    feed that is silent for ever.
    """
    with ThreadPoolExecutor(len(models), thread_name_prefix="follow") as threads:
        feeds = [
            threads.submit(
                _follow_one, rails, model, owner, interval_seconds or follow_interval(model), stop, report
            )
            for model in models
        ]
        ended, _ = wait(feeds, return_when=FIRST_EXCEPTION)
        stop.set()
    for feed in ended:
        feed.result()


def follow_interval(model: Model) -> float:
    """Seconds between two listings of `ingest run`."""
    return model.poll_interval_seconds / FOLLOW_SPEED_UP


def _follow_one(
    rails: Rails,
    model: Model,
    owner: str,
    interval_seconds: float,
    stop: threading.Event,
    report: Callable[[Report], None],
) -> None:
    while not stop.is_set():
        try:
            poll(rails, model)
            results = work_off(rails, model, owner=owner)
        # A refusal that an operator mends, or a database that restarts, must not end the feed for good.
        except (IngestError, OperationalError) as error:
            results = [Report(model, "", errors=[f"{model.id}: {error}"])]
        for result in results:
            report(result)
        stop.wait(interval_seconds)


def _buckets(settings: Settings) -> Callable[[str], Bucket]:
    """Source buckets by name, each opened once: their concurrency gate is per host."""
    patience = Patience(
        max_retries=settings.max_retries,
        parallel=settings.parallel_downloads,
        budget_seconds=REQUEST_BUDGET_SECONDS,
    )
    return cache(
        lambda name: open_bucket(
            name,
            endpoint=settings.weather_endpoint,
            credentials=settings.source_credentials,
            patience=patience,
            ca_file=settings.ca_file,
        )
    )

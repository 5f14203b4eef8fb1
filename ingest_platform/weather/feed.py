"""A model as a feed: poll its source when a listing is due, work off what the ledger calls due.

The same functions serve Dagster's sensor and runs, `ingest once` for cron and `ingest run` for low latency.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from ingest_platform.catalog.lease import LEDGER_AWAY
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.errors import IngestError, PermanentError, StoreUnavailable, TransientError
from ingest_platform.settings import Settings
from ingest_platform.storage.bucket import Bucket, open_bucket
from ingest_platform.storage.http import HttpTally
from ingest_platform.storage.patience import Patience
from ingest_platform.storage.store import Store, store_of
from ingest_platform.weather.allocator import keep_freed_memory
from ingest_platform.weather.discover import Cursor, Discovery, discover, partition_prefixes, sightings
from ingest_platform.weather.ingest import Rails, Report, count_answers, ingest_partition
from ingest_platform.weather.model import Model

log = logging.getLogger(__name__)

# Dagster ends a sensor evaluation after 60 s; a listing that stops at 40 s leaves time to answer.
LISTING_BUDGET_SECONDS = 40.0
# With the listing's 40 s it stays below Dagster's 60 s; what takes longer is the ledger's to try again.
REQUEST_BUDGET_SECONDS = 15.0
# What another round may find mended.
AWAY = (IngestError, OSError, *LEDGER_AWAY)
# `ingest run` lists twenty times as often as the poll interval says: MRMS every 6 s, which with
# half a second of work gives publish → visible in about 4 s at the median.
FOLLOW_SPEED_UP = 20
# So many threads more than cores decode and write: while some wait for the store, the cores go on. A GFS hour
# then takes 12 % less time to a local folder and 40 % less to a store 40 ms away. Each thread costs 17 MB for
# GFS and 32 MB for HRRR; six gave no more.
WAITING_FOR_STORE = 4


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
    keep_freed_memory()
    if catalog.has_published():
        store.verify(catalog.ledger_id)
    else:
        store.bind(catalog.ledger_id)
    tally = HttpTally()
    return Rails(
        catalog=catalog,
        store=store,
        open_bucket=_buckets(settings, tally),
        scratch=Path(settings.home) / "scratch",
        parallel_downloads=settings.parallel_downloads,
        decode_threads=(os.cpu_count() or 1) + WAITING_FOR_STORE,
        clock=clock or (lambda: datetime.now(UTC)),
        tally=tally,
    )


def poll(
    rails: Rails, model: Model, *, every: timedelta | None = None, now: datetime | None = None
) -> Discovery | None:
    """List what may be new at the source and tell the ledger; None if a listing is not due yet.

    `every` is the time between two listings; without it the model is listed now. `now`: by default the
    clock's. The cursor lies in the
    ledger, so sensor, cron and daemon share it. A failed listing raises and moves nothing.
    """
    now = now or rails.clock()
    cursor = Cursor.parse(rails.catalog.cursor(model.source_name))
    if every is not None and not cursor.due(now, every):
        return None
    end = time.monotonic() + LISTING_BUDGET_SECONDS
    try:
        found = discover(
            model,
            rails.open_bucket,
            lambda seen: rails.catalog.see(model.source_name, seen),
            now=now,
            cursor=cursor,
            budget=lambda: end - time.monotonic(),
        )
        rails.catalog.keep_cursor(model.source_name, found.cursor.text())
    finally:
        count_answers(rails)
    return found


def see_partition(rails: Rails, model: Model, partition: str) -> int:
    """List one partition, whatever the poll interval says and however old it is; how many became pending."""
    pending = 0
    for prefix in partition_prefixes(model, partition):
        for page in rails.open_bucket(prefix.bucket).list(prefix.prefix):
            seen = [s for s in sightings(model, prefix.bucket, page) if s.partition == partition]
            pending += rails.catalog.see(model.source_name, seen)
    return pending


def admit(rails: Rails, model: Model, partition: str) -> None:
    """Bring a purged or never seen partition back, pinned. PermanentError while it is being purged."""
    rails.catalog.admit(model.source_name, partition, model.partition_end(partition))
    if rails.catalog.partition_state(model.source_name, partition) == "purging":
        raise PermanentError(
            f"{model.id} {partition}: is being purged, so it cannot be brought back yet. Nothing was changed."
            " Launch again once `ingest purge` has finished with it."
        )


def once(
    rails: Rails,
    models: Sequence[Model],
    *,
    owner: str,
    now: datetime | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Report]:
    """Discover and ingest everything that is due, fast feeds first; a report a partition, as they end.

    `now`: discover as if it were this time. `stop` as in ingest_partition. A failing model stops no other.
    Without pictures: a report that nobody draws shall not hold 16 MB.
    """
    for model in sorted(models, key=lambda m: m.cadence_minutes):
        try:
            while not stop() and (found := poll(rails, model, now=now)) is not None and not found.complete:
                continue
            for report in work_off(rails, model, owner=owner, stop=stop):
                report.headline = None
                yield report
        except IngestError as error:
            yield _told(model, error)


def work_off(
    rails: Rails,
    model: Model,
    *,
    owner: str,
    stop: Callable[[], bool] = lambda: False,
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[Report]:
    """Ingest every partition with due work and no other worker, newest first; a report each.

    StoreUnavailable ends it: the next partition would only wait for the same store. `stop` and `pause` as in
    ingest_partition.
    """
    for partition in rails.catalog.due_partitions(model.source_name):
        try:
            yield ingest_partition(rails, model, partition, owner=owner, stop=stop, pause=pause)
        except StoreUnavailable:
            raise
        except TransientError as error:
            yield Report(model, partition, errors=[str(error)])
        if stop() or pause():
            return


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

    When a listing is due, what is being worked off waits after its batch: the newest comes first. When `stop`
    is set, the objects that were begun are published and the leases handed back: seconds. A source, store or
    ledger that is away is told to `report` and waited for; an IngestError that `report` raises is logged.
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
        next_listing = time.monotonic() + interval_seconds
        for made in _round(rails, model, owner, stop, until=next_listing):
            try:
                report(made)
            # Its reader is away; the data is published all the same.
            except IngestError as error:
                log.warning("a report was not taken", extra={"model": model.id, "why": str(error)})
        stop.wait(next_listing - time.monotonic())


def _round(
    rails: Rails, model: Model, owner: str, stop: threading.Event, *, until: float
) -> Iterator[Report]:
    """One listing, then what is due until the next one. A refusal that an operator mends, a full disk or a
    database that restarts must not end the feed for good; nor must a listing that fails delay what is known.
    """
    try:
        poll(rails, model)
    except AWAY as error:
        yield _told(model, error)
    try:
        yield from work_off(
            rails, model, owner=owner, stop=stop.is_set, pause=lambda: time.monotonic() >= until
        )
    except AWAY as error:
        yield _told(model, error)


def _told(model: Model, error: Exception) -> Report:
    return Report(model, "", errors=[f"{model.id}: {error}"])


def _buckets(settings: Settings, tally: HttpTally) -> Callable[[str], Bucket]:
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
            tally=tally,
            ca_file=settings.ca_file,
        )
    )

"""How each model stands at this moment, from the ledger alone: what metrics and the status page both show.

A few indexed reads a model, whatever the number of rows: a scrape comes every few seconds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import ObjectRow, SourceGauges
from ingest_platform.catalog.tables import LIVE
from ingest_platform.operations.matrix import event_time
from ingest_platform.weather.checks import STALE_AFTER_CADENCES
from ingest_platform.weather.discover import Cursor
from ingest_platform.weather.model import Model


@dataclass(frozen=True, slots=True)
class Standing:
    """One model. Times are UTC; None: never, or nothing yet."""

    model: Model
    gauges: SourceGauges | None  # None: its source was never listed
    listed_at: datetime | None  # the last listing that ended well
    newest_seen: datetime | None  # cycle, scan start or valid time of the newest object the source has shown
    newest_live: datetime | None  # the same of what readers can open

    @property
    def last_success(self) -> datetime | None:
        return self.gauges.newest_commit if self.gauges else None

    @property
    def next_poll(self) -> datetime | None:
        """None: at the next occasion."""
        return self.listed_at and self.listed_at + timedelta(seconds=self.model.poll_interval_seconds)


def lag_limit(model: Model) -> timedelta:
    """The oldest that the newest live cycle, scan or observation gets while all is well.

    It waits for its successor: a cadence, the source's usual delay, and at worst one whole poll interval.
    """
    waits = timedelta(minutes=model.cadence_minutes + model.delay_minutes)
    return waits + timedelta(seconds=model.poll_interval_seconds)


def silence_limit(model: Model) -> timedelta:
    """The oldest that the newest object gets before its source counts as stale: as the check has it."""
    return timedelta(minutes=STALE_AFTER_CADENCES * model.cadence_minutes + model.delay_minutes)


def standings(
    catalog: Catalog, models: Iterable[Model], gauges: Iterable[SourceGauges]
) -> tuple[Standing, ...]:
    """All of them, in their order. A ledger that cannot be read raises."""
    by_source = {of_source.source: of_source for of_source in gauges}
    return tuple(_standing(catalog, model, by_source.get(model.source_name)) for model in models)


def recent_partitions(model: Model, cursor: Cursor, number: int) -> Sequence[str]:
    """Keys of the newest partition that the source has shown and of those before it, the newest first."""
    if cursor.newest is None:
        return ()
    span = timedelta(hours=model.partition_hours)
    return [model.partition_key(cursor.newest - age * span) for age in range(number)]


def _standing(catalog: Catalog, model: Model, gauges: SourceGauges | None) -> Standing:
    cursor = Cursor.parse(gauges.cursor if gauges else None)
    seen, live = _newest(catalog, model, cursor)
    return Standing(model, gauges, cursor.listed_at, seen, live)


def _newest(catalog: Catalog, model: Model, cursor: Cursor) -> tuple[datetime | None, datetime | None]:
    """Event times of the newest object of all and the newest live one: nearly always in one partition."""
    newest = None
    for rows in _objects(catalog, model, cursor):
        # Slots begin with the event time, so their order is its order.
        newest = newest or event_time(max(row.slot for row in rows))
        if live := [row.slot for row in rows if row.state in LIVE]:
            return newest, event_time(max(live))
    return newest, None


def _objects(catalog: Catalog, model: Model, cursor: Cursor) -> Iterator[tuple[ObjectRow, ...]]:
    """The rows of each partition that retention may have kept, the newest first."""
    kept = model.retention_hours // model.partition_hours + model.keep_latest
    for partition in recent_partitions(model, cursor, kept):
        if rows := catalog.objects(model.source_name, partition):
            yield rows

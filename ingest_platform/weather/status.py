"""One model at a glance, from the ledger alone: what `ingest status` prints."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Coverage
from ingest_platform.weather.checks import Completeness, completeness_of
from ingest_platform.weather.discover import Cursor
from ingest_platform.weather.model import Model

ERRORS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Times are UTC. `lag_seconds` is the age of the newest live grid's cycle, scan or observation."""

    model: str
    last_success: datetime | None
    lag_seconds: float | None
    next_poll: datetime | None  # None: at the next occasion
    completeness: str  # of the newest partition
    waiting: int
    quarantined: int
    last_errors: tuple[str, ...]


def status_of(
    catalog: Catalog, model: Model, now: datetime, *, poll_interval: int | None = None
) -> ModelStatus:
    """`poll_interval`: seconds between two listings, if the settings say so; None: as the model has it."""
    found = catalog.gauges(model.source_name)
    if not found:
        return ModelStatus(model.id, None, None, None, "", 0, 0, ())
    (gauges,) = found
    listed_at = Cursor.parse(gauges.cursor).listed_at
    every = timedelta(seconds=poll_interval or model.poll_interval_seconds)
    newest = _coverage(catalog, model, gauges.newest_open)
    # While a new cycle has not published anything, the one before it is the newest that readers can open.
    live = newest if newest and newest.newest else _coverage(catalog, model, gauges.newest_published)
    return ModelStatus(
        model=model.id,
        last_success=gauges.newest_commit,
        lag_seconds=(now - live.newest).total_seconds() if live and live.newest else None,
        next_poll=listed_at and listed_at + every,
        completeness="" if newest is None else _told(completeness_of(model, newest, now)),
        waiting=gauges.pending,
        quarantined=gauges.quarantined,
        last_errors=_errors(catalog, model),
    )


def _coverage(catalog: Catalog, model: Model, partition: str | None) -> Coverage | None:
    """None: there is none, or it was purged in between."""
    if partition is None:
        return None
    return next(iter(catalog.coverage(model.source_name, partition=partition)), None)


def _told(whole: Completeness) -> str:
    return f"{whole.partition} {whole.live}/{whole.expected} ({whole.percent:.1f} %)"


def _errors(catalog: Catalog, model: Model) -> tuple[str, ...]:
    rows = (
        *catalog.quarantined(model.source_name, limit=ERRORS_SHOWN),
        *catalog.retrying(model.source_name, limit=ERRORS_SHOWN),
    )
    return tuple(f"{row.key}: {row.error}" for row in rows if row.error)[:ERRORS_SHOWN]

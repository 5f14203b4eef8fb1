"""One model at a glance, from the ledger alone: what `ingest status` prints."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.weather.checks import completeness_of
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


def status_of(catalog: Catalog, model: Model, now: datetime) -> ModelStatus:
    overview = catalog.overview(model.source_name)
    listed_at = Cursor.parse(catalog.cursor(model.source_name)).listed_at
    newest = max(
        (row.partition for row in catalog.partitions(model.source_name) if row.state == "open"), default=None
    )
    live = None if newest is None else catalog.published(model.source_name, newest)
    rows = () if live is None else live.artifacts
    latest = max((row["valid_time"] - timedelta(seconds=row["lead_seconds"]) for row in rows), default=None)
    whole = None if newest is None else completeness_of(model, newest, rows, now)
    errors = [f"{row.key}: {row.error}" for row in (*overview.quarantined, *overview.waiting) if row.error]
    return ModelStatus(
        model=model.id,
        last_success=overview.newest_commit,
        lag_seconds=None if latest is None else (now - latest).total_seconds(),
        next_poll=listed_at and listed_at + timedelta(seconds=model.poll_interval_seconds),
        completeness=""
        if whole is None
        else f"{newest} {whole.live}/{whole.expected} ({whole.percent:.1f} %)",
        waiting=overview.objects.get("pending", 0),
        quarantined=overview.objects.get("quarantined", 0),
        last_errors=tuple(errors[:ERRORS_SHOWN]),
    )

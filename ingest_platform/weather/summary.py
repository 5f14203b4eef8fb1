"""What people look at: numbers, a table and a picture of an ingest, and the verdicts over a model.

Plain values; `defs.py` turns them into Dagster's metadata, `cli.py` into lines.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import icechunk
import numpy as np

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Coverage, Snapshot
from ingest_platform.pages.verdict import Verdict
from ingest_platform.storage.store import Store
from ingest_platform.weather import checks, goes
from ingest_platform.weather.checks import completeness_of
from ingest_platform.weather.ingest import Report
from ingest_platform.weather.model import Kind, Model
from ingest_platform.weather.picture import picture

Rows = Sequence[Mapping[str, Any]]  # artifact joined with weather_grid, as Catalog.published gives them


def metadata(report: Report, rows: Rows, now: datetime) -> dict[str, Any]:
    """Counts, bytes, rate, completeness, table and picture of one materialization."""
    whole = completeness_of(report.model, counted(report.model, report.partition, rows), now)
    shown = pictures(report)
    facts: dict[str, Any] = {
        # Dagster keeps this order: first what one looks at, then numbers, last what hides behind a click.
        **{name: shown[name] for name in ("picture",) if name in shown},
        "objects": report.published,
        "objects_partial": report.partial,
        "objects_failed": report.failed,
        "objects_postponed": report.postponed,
        "grids": report.grids,
        "dagster/row_count": len(rows),
        "bytes_read": report.bytes_read,
        "bytes_stored": report.bytes_stored,
        "seconds": round(report.seconds, 3),
        "MB/s": round(report.bytes_read / 1e6 / report.seconds, 2) if report.seconds else 0.0,
        "completeness_percent": round(whole.percent, 2),
        "completeness": f"{whole.live} of {whole.expected}",
        "live_grids": table(report.model, rows),
    }
    if report.absent:
        facts["configured_but_absent"] = sorted(report.absent)
    if report.errors:
        facts["errors"] = report.errors[:20]
    return facts | shown


def counted(model: Model, partition: str, rows: Rows) -> Coverage:
    """What Catalog.coverage says of this partition, from rows that were read anyway."""
    times = defaultdict(set)
    for row in rows:
        times[row["variable"]].add(row["valid_time"])
    return Coverage(
        partition=partition,
        event_end=model.partition_end(partition),
        snapshot=None,
        leads=Counter(row["lead_seconds"] for row in rows),
        grids=Counter(row["variable"] for row in rows),
        times={variable: len(found) for variable, found in times.items()},
        newest=max(
            (row["valid_time"] - timedelta(seconds=row["lead_seconds"]) for row in rows), default=None
        ),
    )


def table(model: Model, rows: Rows) -> list[dict[str, str]]:
    """Lead (or time) × parameter: how many levels of each are live."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        label = (
            f"f{row['lead_seconds'] / 3600:06.2f}"
            if model.kind is Kind.FORECAST
            else f"{row['valid_time']:%H:%M:%S}"
        )
        counts[label.removesuffix(".00")][row["variable"]] += 1
    axis = "lead" if model.kind is Kind.FORECAST else "time"
    return [
        {axis: label, **{p.name: _share(counts[label][p.name], len(p.levels())) for p in model.parameters}}
        for label in sorted(counts)
    ]


def _share(live: int, levels: int) -> str:
    return "" if not live else ("●" if levels == 1 else f"{live}/{levels}")


def pictures(report: Report) -> dict[str, str]:
    """The thumbnail, shown in place, and the full map, shown on a click."""
    grid = report.headline
    if grid is None:
        return {}
    when = f"valid {grid.valid_time:%Y-%m-%d %H:%M:%S}Z"
    drawn = picture(
        goes.unpack(grid) if grid.packing else grid.values.astype(np.float32, copy=False),
        title=", ".join(part for part in (grid.parameter.long_name, grid.level, when) if part),
        units=grid.parameter.units,
        bbox=grid.geometry.bbox,
        projected=grid.geometry.y_name != "latitude",
        north_up=bool(grid.geometry.y[0] > grid.geometry.y[-1]),
    )
    return {"picture": drawn.thumbnail_markdown, "picture_full": drawn.full_markdown}


def verdicts(catalog: Catalog, store: Store, model: Model, now: datetime) -> Mapping[str, Verdict]:
    """Every check of one model, over the partitions that retention keeps."""
    kept = catalog.coverage(model.source_name, since=now - timedelta(hours=model.retention_hours))
    answers = {
        "completeness": checks.completeness(model, kept, now),
        "parameters_seen": checks.parameters_seen(model, kept),
        "source_stale": checks.source_stale(model, _newest(catalog, model), now),
    }
    live = _newest_live(catalog, model, kept)
    if live is None:
        nothing = Verdict(True, "nothing is published yet", severe=False)
        return answers | {"value_range": nothing, "catalog_store": nothing}
    try:
        samples = checks.read_back(store, live)
    except icechunk.IcechunkError as error:
        lost = Verdict(
            False,
            f"{live.partition}: the store does not give what the ledger names ({error}). Run reconcile.",
        )
        return answers | {"value_range": lost, "catalog_store": lost}
    return answers | {
        "value_range": checks.value_range(model, samples),
        "catalog_store": checks.catalog_store(samples),
    }


def _newest(catalog: Catalog, model: Model) -> datetime | None:
    """Cycle, scan start or valid time of the newest live grid, however old: silence must not look new."""
    named = [gauges.newest_published for gauges in catalog.gauges(model.source_name)]
    found = [c for key in named if key for c in catalog.coverage(model.source_name, partition=key)]
    return found[0].newest if found else None


def _newest_live(catalog: Catalog, model: Model, kept: Sequence[Coverage]) -> Snapshot | None:
    """None: nothing is published, or it was purged since it was counted."""
    named = [found.partition for found in kept if found.snapshot]
    return catalog.published(model.source_name, named[-1]) if named else None

"""What people look at: numbers, a table and a picture of an ingest, and the verdicts over a model.

Plain values; `defs.py` turns them into Dagster's metadata, `cli.py` into lines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import icechunk
import numpy as np

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.storage.store import Store
from ingest_platform.weather import checks, goes
from ingest_platform.weather.checks import Rows, Verdict, completeness_of
from ingest_platform.weather.ingest import Report
from ingest_platform.weather.model import Kind, Model
from ingest_platform.weather.picture import picture


def metadata(report: Report, rows: Rows, now: datetime) -> dict[str, Any]:
    """Counts, bytes, rate, completeness, table and picture of one materialization."""
    whole = completeness_of(report.model, report.partition, rows, now)
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


def _newest(catalog: Catalog, model: Model) -> datetime | None:
    """Cycle, scan start or valid time of the newest live grid, however old: silence must not look new."""
    named = [row.partition for row in catalog.partitions(model.source_name) if row.snapshot]
    live = catalog.published(model.source_name, max(named)) if named else None
    rows = live.artifacts if live else ()
    return max((row["valid_time"] - timedelta(seconds=row["lead_seconds"]) for row in rows), default=None)


def verdicts(catalog: Catalog, store: Store, model: Model, now: datetime) -> Mapping[str, Verdict]:
    """Every check of one model, over the partitions that retention keeps."""
    since = now - timedelta(hours=model.retention_hours)
    kept = [
        row for row in catalog.partitions(model.source_name) if row.state == "open" and row.event_end >= since
    ]
    keys = [row.partition for row in kept]
    live = {
        key: snapshot for key in keys if (snapshot := catalog.published(model.source_name, key)) is not None
    }
    rows: dict[str, Rows] = {key: live[key].artifacts if key in live else () for key in keys}
    newest = _newest(catalog, model)
    answers = {
        "completeness": checks.completeness(model, rows, now),
        "parameters_seen": checks.parameters_seen(model, rows),
        "source_stale": checks.source_stale(model, newest, now),
    }
    if not live:
        nothing = Verdict(True, "nothing is published yet", severe=False)
        return answers | {"value_range": nothing, "catalog_store": nothing}
    try:
        samples = checks.read_back(store, live[max(live)])
    except icechunk.IcechunkError as error:
        lost = Verdict(
            False, f"{max(live)}: the store does not give what the ledger names ({error}). Run reconcile."
        )
        return answers | {"value_range": lost, "catalog_store": lost}
    return answers | {
        "value_range": checks.value_range(model, samples),
        "catalog_store": checks.catalog_store(samples),
    }

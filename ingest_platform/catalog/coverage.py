"""What readers find in the weather partitions, counted in the database: a cycle of GFS has 18,000 rows, and
its 209 leads and thirty variables are all that a verdict or a page asks for.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select

from ingest_platform.catalog.model import Coverage
from ingest_platform.catalog.tables import OPEN, artifact, partition, weather_grid


def coverage(tx: Connection, source_name: str, since: datetime, only: str | None) -> tuple[Coverage, ...]:
    """The open partitions whose event ends at `since` or later, by key; those without a grid too."""
    wanted = and_(partition.c.source == source_name, OPEN, partition.c.event_end >= since)
    if only is not None:
        wanted &= partition.c.key == only
    variables = _by_partition(tx, variables_by_partition(wanted))
    leads = _by_partition(tx, leads_by_partition(wanted))
    named = select(partition.c.id, partition.c.key, partition.c.event_end, partition.c.snapshot).where(wanted)
    return tuple(
        _coverage(row, variables[row.id], leads[row.id])
        for row in tx.execute(named.order_by(partition.c.key))
    )


def variables_by_partition(wanted: ColumnElement[bool]) -> Select[Any]:
    """Of each partition and variable: grids, distinct valid times."""
    times = func.count(weather_grid.c.valid_time.distinct())
    columns = (func.count().label("grids"), times.label("times"))
    return _grouped(weather_grid.c.variable, columns, wanted)


def leads_by_partition(wanted: ColumnElement[bool]) -> Select[Any]:
    """Of each partition and lead: grids, the newest valid time."""
    columns = (func.count().label("grids"), func.max(weather_grid.c.valid_time).label("newest"))
    return _grouped(weather_grid.c.lead_seconds, columns, wanted)


def _grouped(
    by: ColumnElement[Any], columns: Sequence[ColumnElement[Any]], wanted: ColumnElement[bool]
) -> Select[Any]:
    joined = partition.join(artifact, artifact.c.partition_id == partition.c.id).join(
        weather_grid, weather_grid.c.artifact_id == artifact.c.id
    )
    readable = and_(wanted, partition.c.snapshot.is_not(None))
    return (
        select(partition.c.id, by, *columns).select_from(joined).where(readable).group_by(partition.c.id, by)
    )


def _by_partition(tx: Connection, rows: Select[Any]) -> defaultdict[int, list[Row[Any]]]:
    found: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in tx.execute(rows):
        found[row.id].append(row)
    return found


def _coverage(row: Row[Any], variables: Sequence[Row[Any]], leads: Sequence[Row[Any]]) -> Coverage:
    return Coverage(
        partition=row.key,
        event_end=row.event_end,
        snapshot=row.snapshot,
        leads={lead.lead_seconds: lead.grids for lead in leads},
        grids={found.variable: found.grids for found in variables},
        times={found.variable: found.times for found in variables},
        newest=max((lead.newest - timedelta(seconds=lead.lead_seconds) for lead in leads), default=None),
    )

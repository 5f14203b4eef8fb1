"""What an exporter asks every few seconds: numbers that cost the same at a thousand rows and at a million.

Reads the partial indexes of what waits and the table of partitions, never what was ingested: that is
counted as it happens, in `counters`.
"""

from collections import defaultdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, func, select

from ingest_platform.catalog.model import SourceGauges
from ingest_platform.catalog.rows import Clock
from ingest_platform.catalog.tables import (
    DAWN,
    OPEN,
    PENDING,
    QUARANTINED,
    RETRYING,
    partition,
    source,
    source_object,
)


def gauges(tx: Connection, clock: Clock, source_name: str | None) -> tuple[SourceGauges, ...]:
    """This source's numbers, or every source's by name: as many statements for one as for all."""
    now = clock(tx)
    pending = {row.source: row for row in tx.execute(of(source_name, pending_by_source(now)))}
    quarantined = {row.source: row.objects for row in tx.execute(of(source_name, quarantined_by_source()))}
    states: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in tx.execute(of(source_name, partitions_by_state(now))):
        states[row.source].append(row)
    named = select(source).order_by(source.c.name)
    if source_name is not None:
        named = named.where(source.c.name == source_name)
    return tuple(
        _gauges(row, now, pending.get(row.name), quarantined.get(row.name, 0), states[row.name])
        for row in tx.execute(named)
    )


def of(source_name: str | None, rows: Select[Any]) -> Select[Any]:
    """Only this source's rows; None: all."""
    return rows if source_name is None else rows.where(rows.selected_columns["source"] == source_name)


def pending_by_source(now: datetime) -> Select[Any]:
    """Of each source that has any: pending objects, those due, those after an error; the oldest due."""
    row = source_object.c
    is_due = row.next_attempt_at <= now
    return (
        select(
            row.source,
            func.count().label("objects"),
            func.count(case((is_due, 1))).label("due"),
            func.count(case((RETRYING, 1))).label("retrying"),
            func.min(case((is_due, row.version_time))).label("oldest_due"),
        )
        .where(PENDING)
        .group_by(row.source)
    )


def quarantined_by_source() -> Select[Any]:
    """How many objects are in quarantine, of each source that has any."""
    return (
        select(source_object.c.source, func.count().label("objects"))
        .where(QUARANTINED)
        .group_by(source_object.c.source)
    )


def partitions_by_state(now: datetime) -> Select[Any]:
    """Of each source and state: partitions, how many are pinned and leased, the newest commit and keys."""
    row = partition.c
    return select(
        row.source,
        row.state,
        func.count().label("partitions"),
        func.count(case((and_(OPEN, row.pinned), 1))).label("pinned"),
        func.count(case((row.lease_until > now, 1))).label("leases"),
        func.max(row.committed_at).label("newest_commit"),
        func.max(case((OPEN, row.key))).label("newest_open"),
        func.max(case((and_(OPEN, row.snapshot.is_not(None)), row.key))).label("newest_published"),
    ).group_by(row.source, row.state)


def _gauges(
    of_source: Row[Any],
    now: datetime,
    pending: Row[Any] | None,
    quarantined: int,
    partitions: list[Row[Any]],
) -> SourceGauges:
    opened = next((row for row in partitions if row.state == "open"), None)
    commits = [row.newest_commit for row in partitions if row.newest_commit is not None]
    return SourceGauges(
        source=of_source.name,
        at=now,
        horizon=of_source.horizon if of_source.horizon > DAWN else None,
        cursor=of_source.cursor,
        pending=pending.objects if pending else 0,
        due=pending.due if pending else 0,
        retrying=pending.retrying if pending else 0,
        quarantined=quarantined,
        oldest_due=pending.oldest_due if pending else None,
        partitions={row.state: row.partitions for row in partitions},
        pinned=sum(row.pinned for row in partitions),
        leases=sum(row.leases for row in partitions),
        newest_commit=max(commits, default=None),
        newest_open=opened.newest_open if opened else None,
        newest_published=opened.newest_published if opened else None,
    )

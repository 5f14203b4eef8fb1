"""What readers, checks and people ask the ledger. Changes nothing, waits for nobody.

None means that there is no such thing, an empty tuple that there are no rows; what could not be read
raises.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select

from ingest_platform.catalog.model import Count, ObjectRow, Overview, PartitionRow, Snapshot
from ingest_platform.catalog.rows import Clock, has_due_rows, unleased
from ingest_platform.catalog.tables import (
    DAWN,
    OPEN,
    QUARANTINED,
    RETRYING,
    artifact,
    counter,
    ledger,
    partition,
    source,
    source_object,
    typed_table,
)

# A screenful; the rest is in `objects`.
SHOWN = 50


def published(tx: Connection, source_name: str, key: str) -> Snapshot | None:
    """The pair that readers may open, with its artifacts: one statement, so never one of each version."""
    return next(iter(_snapshots(tx, _published(source_name).where(partition.c.key == key))), None)


def every_published(tx: Connection, source_name: str) -> tuple[Snapshot, ...]:
    """The same of each partition that has one, by key, in one statement."""
    return tuple(_snapshots(tx, _published(source_name)))


def _snapshots(tx: Connection, rows: Select[Any]) -> Iterator[Snapshot]:
    of_ledger = ("partition_key", "uri", "snapshot")
    for key, of_key in groupby(tx.execute(rows).mappings(), lambda row: str(row["partition_key"])):
        found = list(of_key)
        artifacts = tuple(
            {name: value for name, value in row.items() if name not in of_ledger}
            for row in found
            if row["name"] is not None
        )
        yield Snapshot(key, found[0]["uri"], found[0]["snapshot"], artifacts)


def _published(source_name: str) -> Select[Any]:
    details = typed_table(source_name)
    columns: list[ColumnElement[Any]] = [partition.c.key.label("partition_key")]
    columns += [partition.c.uri, partition.c.snapshot]
    columns += [c for c in artifact.c if c.name not in ("id", "partition_id", "source_object_id")]
    joined = partition.outerjoin(artifact, artifact.c.partition_id == partition.c.id)
    if details is not None:
        columns += [c for c in details.c if c.name != "artifact_id"]
        joined = joined.outerjoin(details, details.c.artifact_id == artifact.c.id)
    return (
        select(*columns)
        .select_from(joined)
        .where(partition.c.source == source_name, OPEN, partition.c.snapshot.is_not(None))
        .order_by(partition.c.key, artifact.c.name)
    )


def partition_state(
    tx: Connection, source_name: str, key: str, event_end: datetime | None
) -> Literal["open", "purging", "purged", "forgotten"] | None:
    """`forgotten`: no row, and below the horizon, which only the event's end can tell. None: never seen."""
    named = and_(partition.c.source == source_name, partition.c.key == key)
    state: Any = tx.execute(select(partition.c.state).where(named)).scalar()
    if state is None and event_end is not None and event_end < _horizon(tx, source_name):
        return "forgotten"
    return state  # type: ignore[no-any-return]  # the table's CHECK holds it to the three


def has_due(tx: Connection, clock: Clock, source_name: str, key: str) -> bool:
    named = and_(partition.c.source == source_name, partition.c.key == key)
    return tx.execute(select(partition.c.id).where(named, OPEN, has_due_rows(clock(tx)))).first() is not None


def due_partitions(tx: Connection, clock: Clock, source_name: str) -> tuple[str, ...]:
    """Keys of the partitions that a claim would get work from, the newest first."""
    now = clock(tx)
    mine = and_(partition.c.source == source_name, OPEN, unleased(now), has_due_rows(now))
    newest_first = (partition.c.event_end.desc(), partition.c.key.desc())
    return tuple(tx.execute(select(partition.c.key).where(mine).order_by(*newest_first)).scalars())


def has_published(tx: Connection) -> bool:
    named = select(partition.c.id).where(partition.c.snapshot.is_not(None)).limit(1)
    return tx.execute(named).first() is not None


def cursor(tx: Connection, source_name: str) -> str | None:
    """What the last listing left; None for a source that was never listed."""
    return tx.execute(select(source.c.cursor).where(source.c.name == source_name)).scalar()


def partitions(tx: Connection, source_name: str | None) -> tuple[PartitionRow, ...]:
    """All partitions of a source, or of all, by source and event time."""
    rows = select(partition).order_by(partition.c.source, partition.c.event_end, partition.c.key)
    if source_name is not None:
        rows = rows.where(partition.c.source == source_name)
    return tuple(_partition_row(row) for row in tx.execute(rows))


def _partition_row(row: Row[Any]) -> PartitionRow:
    return PartitionRow(
        source=row.source,
        partition=row.key,
        event_end=row.event_end,
        state=row.state,
        uri=row.uri,
        snapshot=row.snapshot,
        pinned=row.pinned,
        requests=row.requests,
        lease_owner=row.lease_owner,
        lease_until=row.lease_until,
        committed_at=row.committed_at,
    )


def objects(tx: Connection, source_name: str, key: str) -> tuple[ObjectRow, ...]:
    """All versions of all objects of a partition, by slot, the oldest first."""
    mine = and_(partition.c.source == source_name, partition.c.key == key)
    order = (source_object.c.slot, source_object.c.version_time, source_object.c.id)
    return _object_rows(tx, _objects().where(mine).order_by(*order))


def _objects() -> Select[Any]:
    joined = source_object.join(partition, partition.c.id == source_object.c.partition_id)
    return select(source_object, partition.c.key.label("partition_key")).select_from(joined)


def _object_rows(tx: Connection, rows: Select[Any]) -> tuple[ObjectRow, ...]:
    return tuple(
        ObjectRow(
            id=row.id,
            partition=row.partition_key,
            bucket=row.bucket,
            key=row.key,
            etag=row.etag,
            slot=row.slot,
            version_time=row.version_time,
            size_bytes=row.size_bytes,
            state=row.state,
            attempts=row.attempts,
            next_attempt_at=row.next_attempt_at if row.next_attempt_at > DAWN else None,
            error=row.error,
        )
        for row in tx.execute(rows)
    )


def quarantined(tx: Connection, source_name: str, limit: int) -> tuple[ObjectRow, ...]:
    """Given up, with their reasons, the latest first."""
    given_up = and_(source_object.c.source == source_name, QUARANTINED)
    return _object_rows(tx, _objects().where(given_up).order_by(source_object.c.id.desc()).limit(limit))


def retrying(tx: Connection, source_name: str, limit: int) -> tuple[ObjectRow, ...]:
    """Pending after an error, with its text, the last to be tried again first."""
    waiting = and_(source_object.c.source == source_name, RETRYING)
    latest_first = (source_object.c.next_attempt_at.desc(), source_object.c.id.desc())
    return _object_rows(tx, _objects().where(waiting).order_by(*latest_first).limit(limit))


def overview(tx: Connection, source_name: str) -> Overview:
    """What a person wants to know first. Counts rows: not for a loop."""
    horizon = _horizon(tx, source_name)
    mine = partition.c.source == source_name
    size = func.coalesce(func.sum(artifact.c.size_bytes), 0)
    live = artifact.join(partition, partition.c.id == artifact.c.partition_id)
    artifacts, size_bytes = tx.execute(select(func.count(), size).select_from(live).where(mine)).one()
    return Overview(
        source=source_name,
        horizon=horizon if horizon > DAWN else None,
        objects=_by_state(tx, source_object.c.state, source_object.c.source == source_name),
        partitions=_by_state(tx, partition.c.state, mine),
        artifacts=artifacts,
        size_bytes=int(size_bytes),
        newest_commit=tx.execute(select(func.max(partition.c.committed_at)).where(mine)).scalar(),
        quarantined=quarantined(tx, source_name, SHOWN),
        waiting=retrying(tx, source_name, SHOWN),
    )


def _by_state(tx: Connection, state: ColumnElement[str], which: ColumnElement[bool]) -> Mapping[str, int]:
    rows: Sequence[Row[tuple[str, int]]] = tx.execute(
        select(state, func.count()).where(which).group_by(state)
    ).all()
    return {row[0]: row[1] for row in rows}


def _horizon(tx: Connection, source_name: str) -> datetime:
    return tx.execute(select(source.c.horizon).where(source.c.name == source_name)).scalar() or DAWN


def counts(tx: Connection) -> tuple[Count, ...]:
    """Every counter, for the exporter."""
    rows = tx.execute(select(counter).order_by(counter.c.name, counter.c.labels))
    return tuple(Count(row.name, json.loads(row.labels), row.value) for row in rows)


def ledger_id(tx: Connection) -> str:
    found: str = tx.execute(select(ledger.c.id)).scalar_one()
    return found

"""request, claim, hold, heartbeat: who works on which partition, and on which of its rows.

The lease is on the partition. Its token is the fence; the lease's time only says how soon another
worker may try.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import batched
from typing import Any

from sqlalchemy import Connection, Row, select, update

from ingest_platform.catalog.counters import count
from ingest_platform.catalog.model import Claim, Purge, Request, SourceObject
from ingest_platform.catalog.rows import (
    IDS_PER_STATEMENT,
    Clock,
    due,
    has_due_rows,
    lock_partition,
    lock_source,
    lost,
    ours,
    unleased,
)
from ingest_platform.catalog.tables import DAWN, OPEN, partition, source_object

# The third try is made alone: if it kills the process, the row is known for it and its neighbours are not.
MAX_ATTEMPTS = 3

# A run starts within seconds, but its machine may be started first: minutes. Sooner, a slow launcher would
# get the same work twice; the second run would find nothing to claim and end well.
HOLD_OFF = timedelta(minutes=5)
# A killed worker's partition rests this long, then another takes over: within two minutes. Long enough for a
# stalled store call (icechunk gives up after 26 s); heartbeats come every third of it, so two may be lost.
LEASE = timedelta(seconds=90)
# A GFS cycle of 209 files takes minutes in steps; a worker whose heart beats but whose work hangs is
# relieved after this.
LONGEST_BATCH = timedelta(hours=1)


def request(tx: Connection, clock: Clock, source: str, limit: int, hold_off: timedelta) -> list[Request]:
    """Partitions that need a run, the newest first; each not again before the hold-off is over."""
    lock_source(tx, source)
    now = clock(tx)
    rested = partition.c.next_request_at.is_(None) | (partition.c.next_request_at <= now)
    wanted = tx.execute(
        select(partition.c.id, partition.c.key, partition.c.requests)
        .where(partition.c.source == source, OPEN, rested, unleased(now), has_due_rows(now))
        .order_by(partition.c.event_end.desc(), partition.c.key.desc())
        .limit(limit)
        .with_for_update(key_share=True)
    ).all()
    for row in wanted:
        tx.execute(
            update(partition)
            .where(partition.c.id == row.id)
            .values(requests=row.requests + 1, next_request_at=now + hold_off)
        )
    return [Request(row.key, row.id, row.requests + 1) for row in wanted]


def claim(
    tx: Connection,
    clock: Clock,
    name: Callable[[], str],
    source: str,
    key: str,
    owner: str,
    lease: timedelta,
    limit: int | None,
) -> Claim | None:
    """Take the partition and its due rows. None: nothing is due, or another worker holds it."""
    row = lock_partition(tx, source, key)
    now = clock(tx)
    if row is None or not _is_free(row, now):
        return None
    taken = _take_rows(tx, source, row.id, now, limit)
    return _lease(tx, row, now, name, owner, lease, taken) if taken else None


def hold(
    tx: Connection,
    clock: Clock,
    name: Callable[[], str],
    source: str,
    key: str,
    owner: str,
    lease: timedelta,
) -> Claim | None:
    """Take the partition as claim does, but none of its rows: to repair it or to shrink its repository."""
    row = lock_partition(tx, source, key)
    now = clock(tx)
    if row is None or not _is_free(row, now):
        return None
    return _lease(tx, row, now, name, owner, lease, ())


def heartbeat(
    tx: Connection, clock: Clock, held: Claim | Purge, lease: timedelta, longest_batch: timedelta
) -> None:
    """Lengthen the lease from now. LostLease if it is another's, or was held for the longest batch."""
    now = clock(tx)
    in_time = partition.c.claimed_at > now - longest_batch
    beat = update(partition).where(ours(held), in_time).values(lease_until=now + lease)
    if tx.execute(beat).rowcount != 1:
        raise lost(held, "heartbeat")


def _is_free(row: Row[Any], now: datetime) -> bool:
    return bool(row.state == "open" and (row.lease_until is None or row.lease_until <= now))


def _take_rows(
    tx: Connection, source: str, partition_id: int, now: datetime, limit: int | None
) -> tuple[SourceObject, ...]:
    """All due rows on their first or second attempt, else one on its last. Beyond it: quarantined."""
    rows = tx.execute(
        select(source_object)
        .where(source_object.c.partition_id == partition_id, due(now))
        .order_by(source_object.c.version_time, source_object.c.id)
    ).all()
    _quarantine(tx, source, [row.id for row in rows if row.attempts >= MAX_ATTEMPTS])
    shared = [row for row in rows if row.attempts < MAX_ATTEMPTS - 1]
    alone = [row for row in rows if row.attempts == MAX_ATTEMPTS - 1]
    taken = shared[:limit] or alone[:1]
    for some in batched((row.id for row in taken), IDS_PER_STATEMENT):
        counted = update(source_object).where(source_object.c.id.in_(some))
        tx.execute(counted.values(attempts=source_object.c.attempts + 1))
    return tuple(_source_object(row) for row in taken)


def _quarantine(tx: Connection, source: str, ids: Sequence[int]) -> None:
    """Rows whose every attempt ended without an outcome: each time the process died."""
    reason = (
        f"no outcome after {MAX_ATTEMPTS} attempts: the worker died each time, at last on this object alone"
    )
    for some in batched(ids, IDS_PER_STATEMENT):
        tx.execute(
            update(source_object)
            .where(source_object.c.id.in_(some))
            .values(state="quarantined", error=reason, next_attempt_at=DAWN)
        )
    count(tx, source, objects_quarantined_total=len(ids))


def _source_object(row: Row[Any]) -> SourceObject:
    return SourceObject(
        id=row.id,
        bucket=row.bucket,
        key=row.key,
        etag=row.etag,
        size_bytes=row.size_bytes,
        version_time=row.version_time,
        slot=row.slot,
        attempts=row.attempts + 1,
    )


def _lease(
    tx: Connection,
    row: Row[Any],
    now: datetime,
    name: Callable[[], str],
    owner: str,
    lease: timedelta,
    taken: tuple[SourceObject, ...],
) -> Claim:
    """The next token; while nothing is published, a new uri: nobody meets a half-made repository."""
    token = row.token + 1
    uri = row.uri if row.snapshot is not None else _uri(row.source, row.key, name())
    tx.execute(
        update(partition)
        .where(partition.c.id == row.id)
        .values(token=token, uri=uri, lease_owner=owner, lease_until=now + lease, claimed_at=now)
    )
    return Claim(row.source, row.key, row.id, token, uri, row.snapshot, taken)


def _uri(source: str, key: str, name: str) -> str:
    """`source/partition/name`: the first two for people, the third makes it unique for ever."""
    label = re.sub(r"^[.]+|[^A-Za-z0-9._-]", "-", key)
    return f"{source}/{label}/{name}"

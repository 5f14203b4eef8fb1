"""expire, erase, admit, repair, forget, trim: how partitions leave the ledger, and the ways back.

Purge marks first, so that readers stop; then its caller deletes the bytes; then it erases the rows. The
partition's row stays as a tombstone until it lies below the horizon.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import batched
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from ingest_platform.catalog.counters import count
from ingest_platform.catalog.model import Claim, Expirable, Purge
from ingest_platform.catalog.rows import (
    AFRESH,
    IDS_PER_STATEMENT,
    RELEASED,
    Clock,
    lock_partition,
    lock_source,
    lost,
    new_partition,
    ours,
    unleased,
)
from ingest_platform.catalog.tables import (
    LIVE,
    OPEN,
    PENDING,
    PURGING,
    QUARANTINED,
    artifact,
    partition,
    source,
    source_object,
)


def expirable(
    tx: Connection, clock: Clock, source_name: str, cutoff: datetime, keep_latest: int, limit: int | None
) -> tuple[Expirable, ...]:
    """What expire would take at this moment: the same SELECT, no effect."""
    rows = tx.execute(_expirable(source_name, clock(tx), cutoff, keep_latest, limit)).all()
    return tuple(
        Expirable(row.source, row.key, row.event_end, row.uri, row.artifacts, int(row.size_bytes))
        for row in rows
    )


def expire(
    tx: Connection,
    clock: Clock,
    source_name: str,
    cutoff: datetime,
    keep_latest: int,
    owner: str,
    lease: timedelta,
    limit: int | None,
) -> tuple[Purge, ...]:
    """Mark what ended before the cutoff, oldest first; adopt purges whose worker died. Readers stop here."""
    horizon = lock_source(tx, source_name)
    _lock_candidates(tx, source_name, cutoff)
    now = clock(tx)
    rows = tx.execute(_expirable(source_name, now, cutoff, keep_latest, limit)).all()
    raised = update(source).where(source.c.name == source_name).values(horizon=max(horizon, cutoff))
    tx.execute(raised)
    return tuple(_mark(tx, row, now, owner, lease) for row in rows)


def _lock_candidates(tx: Connection, source_name: str, cutoff: datetime) -> None:
    """A partition that is claimed while we wait for its lock is then seen as claimed."""
    candidates = or_(PURGING, and_(OPEN, partition.c.event_end < cutoff))
    tx.execute(
        select(partition.c.id)
        .where(partition.c.source == source_name, candidates)
        .with_for_update(key_share=True)
    ).all()


def _expirable(
    source_name: str, now: datetime, cutoff: datetime, keep_latest: int, limit: int | None
) -> Select[Any]:
    """The partitions that expire takes, with what they hold."""
    kept = _newest_with_artifacts(source_name, keep_latest)
    old = and_(OPEN, ~partition.c.pinned, partition.c.event_end < cutoff, partition.c.id.not_in(kept))
    mine = artifact.c.partition_id == partition.c.id
    artifacts = select(func.count()).select_from(artifact).where(mine).scalar_subquery()
    size = select(func.coalesce(func.sum(artifact.c.size_bytes), 0)).where(mine).scalar_subquery()
    return (
        select(partition, artifacts.label("artifacts"), size.label("size_bytes"))
        .where(partition.c.source == source_name, or_(PURGING, old), unleased(now))
        .order_by(partition.c.event_end, partition.c.key)
        .limit(limit)
    )


def _newest_with_artifacts(source_name: str, how_many: int) -> Select[tuple[int]]:
    """Empty ones do not count: after an outage they are the newest, and the last good one would go."""
    newest = partition.alias("newest")
    return (
        select(newest.c.id)
        .where(newest.c.source == source_name, newest.c.state == "open")
        .where(exists().where(artifact.c.partition_id == newest.c.id))
        .order_by(newest.c.event_end.desc(), newest.c.key.desc())
        .limit(how_many)
    )


def _mark(tx: Connection, row: Row[Any], now: datetime, owner: str, lease: timedelta) -> Purge:
    token = row.token + 1
    tx.execute(
        update(partition)
        .where(partition.c.id == row.id)
        .values(state="purging", token=token, lease_owner=owner, lease_until=now + lease, claimed_at=now)
    )
    found = (row.artifacts, int(row.size_bytes))
    return Purge(row.source, row.key, row.id, token, row.uri, row.event_end, *found)


def erase(tx: Connection, purge: Purge) -> None:
    """The bytes are gone: remove the rows, leave the tombstone. LostLease: nothing changed."""
    tombstone = {"state": "purged", "uri": None, "snapshot": None, **RELEASED}
    if tx.execute(update(partition).where(ours(purge), PURGING).values(tombstone)).rowcount != 1:
        raise lost(purge, "erase")
    of_partition = artifact.c.partition_id == purge.partition_id
    size = func.coalesce(func.sum(artifact.c.size_bytes), 0)
    artifacts, freed = tx.execute(select(func.count(), size).select_from(artifact).where(of_partition)).one()
    tx.execute(delete(artifact).where(of_partition))
    tx.execute(delete(source_object).where(source_object.c.partition_id == purge.partition_id))
    count(
        tx,
        purge.source,
        partitions_purged_total=1,
        artifacts_purged_total=artifacts,
        bytes_purged_total=float(freed),
    )


def admit(tx: Connection, source_name: str, key: str, event_end: datetime) -> bool:
    """Explicit backfill: open a purged or unheard-of partition, pinned. False: it is open or being purged."""
    lock_source(tx, source_name)
    row = lock_partition(tx, source_name, key)
    if row is None:
        values = new_partition(source_name, key, event_end, pinned=True)
        tx.execute(insert(partition).values(values | {"token": 1}))
        return True
    if row.state != "purged":
        return False
    opened = update(partition).where(partition.c.id == row.id)
    tx.execute(opened.values(state="open", pinned=True, token=row.token + 1, next_request_at=None))
    return True


def unpin(tx: Connection, source_name: str, key: str | None) -> int:
    """What was admitted becomes retention's again, in one partition or all. Returns how many were pinned."""
    lock_source(tx, source_name)
    named = (partition.c.source == source_name) & partition.c.pinned
    if key is not None:
        named &= partition.c.key == key
    return tx.execute(update(partition).where(named).values(pinned=False)).rowcount


def repair(tx: Connection, claim: Claim) -> int:
    """The bytes are lost: publish nothing, fetch everything live again. Returns how many objects.

    LostLease: nothing changed.
    """
    emptied = {"uri": None, "snapshot": None, **RELEASED}
    if tx.execute(update(partition).where(ours(claim), OPEN).values(emptied)).rowcount != 1:
        raise lost(claim, "repair")
    tx.execute(delete(artifact).where(artifact.c.partition_id == claim.partition_id))
    live = (source_object.c.partition_id == claim.partition_id) & source_object.c.state.in_(LIVE)
    # Where a newer version waits already, that one is fetched instead: a slot has one pending row.
    tx.execute(update(source_object).where(live, _sibling("pending")).values(state="superseded"))
    requeued = tx.execute(update(source_object).where(live).values(AFRESH)).rowcount
    count(tx, claim.source, partitions_repaired_total=1)
    return requeued


def requeue(tx: Connection, source_name: str, key: str | None) -> int:
    """A person's word that the quarantined deserve another try: of each slot its newest version.

    In one partition, or all of the source's open ones. Returns how many objects.
    """
    lock_source(tx, source_name)
    rows = source_object.c
    quarantined = select(rows.partition_id).where(rows.source == source_name, QUARANTINED)
    named = (partition.c.source == source_name) & OPEN & partition.c.id.in_(quarantined)
    if key is not None:
        named &= partition.c.key == key
    partitions = tx.scalars(select(partition.c.id).where(named).with_for_update(key_share=True)).all()
    ids: list[int] = []
    for number in partitions:
        worth_it = (source_object.c.partition_id == number) & QUARANTINED & ~_newer_sibling()
        ids += tx.scalars(select(source_object.c.id).where(worth_it))
    for some in batched(ids, IDS_PER_STATEMENT):
        # As a list of ids: asked row by row, SQLite would read every pending row of the ledger.
        waiting = tx.scalars(_pending_siblings(some)).all()
        tx.execute(update(source_object).where(rows.id.in_(waiting)).values(state="superseded"))
        tx.execute(update(source_object).where(rows.id.in_(some)).values(AFRESH))
    return len(ids)


def _pending_siblings(ids: Sequence[int]) -> Select[tuple[int]]:
    """Pending rows in the slots of these, at most one each."""
    chosen = source_object.alias("chosen")
    joined = source_object.join(chosen, and_(*_same_slot(chosen)))
    return select(source_object.c.id).select_from(joined).where(chosen.c.id.in_(ids), PENDING)


def _sibling(state: str) -> ColumnElement[bool]:
    other = source_object.alias("other")
    return exists().where(other.c.state == state, *_same_slot(other))


def _newer_sibling() -> ColumnElement[bool]:
    newer = source_object.alias("newer")
    mine, its = source_object.c, newer.c
    later = or_(
        its.version_time > mine.version_time, and_(its.version_time == mine.version_time, its.id > mine.id)
    )
    return exists().where(later, *_same_slot(newer))


def _same_slot(other: FromClause) -> tuple[ColumnElement[bool], ...]:
    return (other.c.partition_id == source_object.c.partition_id, other.c.slot == source_object.c.slot)


def forget(tx: Connection, source_name: str) -> int:
    """Remove the tombstones below the horizon, which refuses what they refused. Returns how many."""
    horizon = lock_source(tx, source_name)
    below = (partition.c.source == source_name) & (partition.c.event_end < horizon)
    return tx.execute(delete(partition).where(below, partition.c.state == "purged")).rowcount


def trim(tx: Connection, source_name: str, key: str) -> int:
    """Remove versions older than their slot's published one that nobody tries any more. Returns how many."""
    row = lock_partition(tx, source_name, key)
    if row is None:
        return 0
    live, mine = source_object.alias("live"), source_object.c
    replaced = exists().where(
        live.c.state.in_(LIVE), live.c.version_time > mine.version_time, *_same_slot(live)
    )
    old = (mine.partition_id == row.id) & mine.state.in_(("superseded", "quarantined")) & replaced
    return tx.execute(delete(source_object).where(old)).rowcount

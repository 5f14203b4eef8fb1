"""How every verb finds and locks its rows: first the source, then partitions, then counters.

A verb that touches several partitions, or makes or removes one, locks the source row first; the others
lock one partition each: nobody waits in a circle. On SQLite `BEGIN IMMEDIATE` is the lock.

The locks are `FOR NO KEY UPDATE`: verbs exclude each other as with `FOR UPDATE`, but a foreign key that
PostgreSQL checks on the way need not wait for the source's row, after the partition's was taken.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, exists, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from ingest_platform.catalog.model import Claim, Purge
from ingest_platform.catalog.tables import DAWN, PENDING, partition, source, source_object
from ingest_platform.errors import LostLease

Clock = Callable[[Connection], datetime]

# SQLite takes 32,766 values in a statement; with 5,000 its text stays below 1 MB in either dialect.
IDS_PER_STATEMENT = 5_000


def lock_source(tx: Connection, name: str) -> datetime:
    """Lock the source's row, new or not. Returns its horizon."""
    locked = select(source.c.horizon).where(source.c.name == name).with_for_update(key_share=True)
    horizon: datetime | None = tx.execute(locked).scalar()
    if horizon is not None:
        return horizon
    insert = (postgresql if tx.dialect.name == "postgresql" else sqlite).insert(source)
    # Two processes may meet a new source together: the second waits here for the first and does nothing.
    tx.execute(insert.values(name=name, horizon=DAWN).on_conflict_do_nothing())
    born: datetime = tx.execute(locked).scalar_one()
    return born


def lock_partition(tx: Connection, source_name: str, key: str) -> Row[Any] | None:
    """Lock a partition's row and read it; None if there is none."""
    named = (partition.c.source == source_name) & (partition.c.key == key)
    return tx.execute(select(partition).where(named).with_for_update(key_share=True)).one_or_none()


def new_partition(source_name: str, key: str, event_end: datetime, *, pinned: bool = False) -> dict[str, Any]:
    """Values of a partition row at its birth."""
    return {
        "source": source_name,
        "key": key,
        "event_end": event_end,
        "state": "open",
        "token": 0,
        "pinned": pinned,
        "requests": 0,
    }


def ours(held: Claim | Purge) -> ColumnElement[bool]:
    """The partition row, if this token is still the last one given and its lease was not handed back.

    The expiry of the lease is not asked for: who was not relieved may finish.
    """
    return (
        (partition.c.id == held.partition_id)
        & (partition.c.token == held.token)
        & partition.c.claimed_at.is_not(None)
    )


def lost(held: Claim | Purge, verb: str) -> LostLease:
    return LostLease(
        f"{held.source} partition {held.partition}: expected token {held.token} to be the last one given, "
        f"but another worker took the lease, or this one was handed back already. The {verb} changed "
        "nothing, what the ledger names stands. Delete nothing and claim again."
    )


# What handing back a lease sets.
RELEASED: dict[str, None] = {"lease_owner": None, "lease_until": None, "claimed_at": None}

# A row that begins again, with a clean record.
AFRESH: dict[str, Any] = {
    "state": "pending",
    "attempts": 0,
    "postponements": 0,
    "next_attempt_at": DAWN,
    "error": None,
}


def unleased(now: datetime) -> ColumnElement[bool]:
    return or_(partition.c.lease_until.is_(None), partition.c.lease_until <= now)


def due(now: datetime) -> ColumnElement[bool]:
    """A pending row whose time has come."""
    return PENDING & (source_object.c.next_attempt_at <= now)


def has_due_rows(now: datetime) -> ColumnElement[bool]:
    """The partition (of the outer statement) has due rows."""
    return exists().where(source_object.c.partition_id == partition.c.id, due(now))

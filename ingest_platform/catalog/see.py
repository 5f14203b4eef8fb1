"""see: what a listing of the source shows becomes rows.

A purged partition stays purged: its tombstone, or the source's horizon once the tombstone is gone,
refuses every sighting. Gathers the rows, lets `versions` decide, writes the changes.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import batched
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from ingest_platform.catalog.counters import count
from ingest_platform.catalog.model import Sighting
from ingest_platform.catalog.rows import AFRESH, IDS_PER_STATEMENT, lock_source, new_partition
from ingest_platform.catalog.tables import DAWN, partition, source, source_object
from ingest_platform.catalog.versions import Slot, Version

# What a listing knows a version by: bucket, key, etag.
_Name = tuple[str, str, str]
_Slots = dict[tuple[int, str], Slot]


def see(tx: Connection, source: str, sightings: Sequence[Sighting]) -> int:
    """Take the sightings down. Returns how many versions became pending."""
    horizon = lock_source(tx, source)
    opened = _lock_open_partitions(tx, source, horizon, sightings)
    seen = sorted((s for s in sightings if s.partition in opened), key=lambda s: s.version_time)
    slots = _load_slots(tx, seen, opened)
    known = _load_known(tx, source, seen, slots)
    for order, sighting in enumerate(seen):
        name = (sighting.bucket, sighting.key, sighting.etag)
        if name not in known:
            slot = slots[opened[sighting.partition], sighting.slot]
            known[name] = (slot, slot.see_first(sighting, order))
        elif (found := known[name]) is not None:
            slot, version = found
            slot.see_again(version, sighting.version_time)
    return _store(tx, source, slots)


def _lock_open_partitions(
    tx: Connection, source: str, horizon: datetime, sightings: Sequence[Sighting]
) -> dict[str, int]:
    """Ids of the open partitions among the sightings'. One never heard of opens, unless below the horizon."""
    ends = {s.partition: s.event_end for s in sightings}
    found = _lock_partitions(tx, source, ends)
    absent = sorted(key for key, end in ends.items() if key not in found and end >= horizon)
    if absent:
        tx.execute(insert(partition), [new_partition(source, key, ends[key]) for key in absent])
        found |= _lock_partitions(tx, source, absent)
    return {key: number for key, (number, state) in found.items() if state == "open"}


def _lock_partitions(tx: Connection, source: str, keys: Iterable[str]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for some in batched(sorted(keys), IDS_PER_STATEMENT):
        rows = tx.execute(
            select(partition.c.key, partition.c.id, partition.c.state)
            .where(partition.c.source == source, partition.c.key.in_(some))
            .with_for_update(key_share=True)
        )
        found |= {key: (number, state) for key, number, state in rows}
    return found


def _load_slots(tx: Connection, seen: Sequence[Sighting], opened: dict[str, int]) -> _Slots:
    """Every version of every slot sighted."""
    names: defaultdict[int, set[str]] = defaultdict(set)
    for sighting in seen:
        names[opened[sighting.partition]].add(sighting.slot)
    slots = {(number, name): Slot(number) for number, some in names.items() for name in some}
    row = source_object.c
    for number, wanted in names.items():
        for some in batched(sorted(wanted), IDS_PER_STATEMENT):
            of_slots = (row.partition_id == number) & row.slot.in_(some)
            for found in tx.execute(select(row.id, row.slot, row.version_time, row.state).where(of_slots)):
                version = Version(found.id, found.version_time, found.state)
                slots[number, found.slot].versions.append(version)
    return slots


def _load_known(
    tx: Connection, source: str, seen: Sequence[Sighting], slots: _Slots
) -> dict[_Name, tuple[Slot, Version] | None]:
    """The rows that the sighted names have; None: filed under another partition or slot, which keeps it."""
    loaded = {version.id: (slot, version) for slot in slots.values() for version in slot.versions}
    known: dict[_Name, tuple[Slot, Version] | None] = {}
    buckets = sorted({s.bucket for s in seen})
    row = source_object.c
    for keys in batched(sorted({s.key for s in seen}), IDS_PER_STATEMENT):
        named = (row.source == source) & row.bucket.in_(buckets) & row.key.in_(keys)
        for found in tx.execute(select(row.id, row.bucket, row.key, row.etag).where(named)):
            known[found.bucket, found.key, found.etag] = loaded.get(found.id)
    return known


def _store(tx: Connection, source: str, slots: _Slots) -> int:
    """Write the changes, the superseded first: a slot has one pending row at any moment."""
    changed = [v for slot in slots.values() for v in slot.versions if v.id is not None and v.changed]
    _update(tx, [v for v in changed if v.state != "pending"])
    _update(tx, [v for v in changed if v.state == "pending" and not v.revived])
    _update(tx, [v for v in changed if v.revived], AFRESH)
    new = [(slot, v) for slot in slots.values() for v in slot.versions if v.id is None]
    if new:
        # In order of time: among equals the later id is the newer version.
        new.sort(key=lambda pair: pair[1].order)
        tx.execute(insert(source_object), [_row(source, slot, v) for slot, v in new])
    pending = sum(v.revived for v in changed) + sum(v.state == "pending" for _, v in new)
    count(tx, source, objects_seen_total=pending)
    return pending


def keep_cursor(tx: Connection, source_name: str, cursor: str) -> None:
    """Take down where the next listing goes on. No rule of the ledger depends on it."""
    lock_source(tx, source_name)
    tx.execute(update(source).where(source.c.name == source_name).values(cursor=cursor))


def _update(
    tx: Connection, versions: Sequence[Version], record: Mapping[str, Any] = MappingProxyType({})
) -> None:
    if versions:
        tx.execute(
            update(source_object)
            .where(source_object.c.id == bindparam("row_id"))
            .values({**record, "version_time": bindparam("new_time"), "state": bindparam("new_state")}),
            [{"row_id": v.id, "new_time": v.version_time, "new_state": v.state} for v in versions],
        )


def _row(source: str, slot: Slot, version: Version) -> dict[str, Any]:
    sighting = version.sighting
    assert sighting is not None  # noqa: S101 - what has no id was made from a sighting
    return {
        "source": source,
        "bucket": sighting.bucket,
        "key": sighting.key,
        "etag": sighting.etag,
        "partition_id": slot.partition_id,
        "slot": sighting.slot,
        "version_time": version.version_time,
        "size_bytes": sighting.size_bytes,
        "state": version.state,
        "attempts": 0,
        "postponements": 0,
        "next_attempt_at": DAWN,
    }

"""A ledger to play with: empty, on either dialect, under a clock that only the test moves.

States are reached through the real verbs.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import ColumnElement, create_engine, literal, text

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Artifact, Claim, ObjectRow, Published, Sighting, SourceObject
from ingest_platform.catalog.tables import UtcTime, metadata

SOURCE = "weather.gfs"
CYCLE = "2026-03-01T00"
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
LEASE = timedelta(minutes=2)
LONGEST_BATCH = timedelta(hours=1)
HOLD_OFF = timedelta(minutes=5)
LONG_AFTER = timedelta(days=1)


@dataclass(slots=True)
class PlayedClock:
    """The database's clock as the test wants it: it stands still until it is moved, also backwards."""

    at: datetime = MIDNIGHT + timedelta(hours=6)

    def __call__(self) -> ColumnElement[datetime]:
        return literal(self.at, UtcTime())

    def advance(self, by: timedelta) -> None:
        self.at += by


def sighting(
    key: str = "f000",
    etag: str = "e1",
    *,
    minute: float = 0,
    partition: str = CYCLE,
    slot: str | None = None,
    event_end: datetime | None = None,
) -> Sighting:
    """One version; `minute` orders the versions of a slot."""
    return Sighting(
        bucket="noaa",
        key=key,
        etag=etag,
        size_bytes=100,
        version_time=MIDNIGHT + timedelta(minutes=minute),
        partition=partition,
        event_end=event_end or end_of(partition),
        slot=slot or key,
    )


def end_of(partition: str) -> datetime:
    return datetime.strptime(partition, "%Y-%m-%dT%H").replace(tzinfo=UTC) + timedelta(hours=6)


def cycles(number: int) -> list[str]:
    """Keys of consecutive six-hourly cycles, the oldest first."""
    return [f"{MIDNIGHT + timedelta(hours=6 * i):%Y-%m-%dT%H}" for i in range(number)]


def grid(name: str, *, checksum: str = "sum", size_bytes: int = 10) -> Artifact:
    return Artifact(name, size_bytes, checksum, "1", grid_details(name))


def grid_details(variable: str) -> dict[str, object]:
    return {
        "model": "gfs",
        "variable": variable,
        "parameter": "TMP",
        "level": "2 m above ground",
        "window": "instant",
        "reference_time": MIDNIGHT,
        "valid_time": MIDNIGHT + timedelta(hours=3),
        "lead_seconds": 10_800,
        "west": 0.0,
        "south": -90.0,
        "east": 360.0,
        "north": 90.0,
        "array": f"/{variable}",
        "time_index": 3,
        "level_index": None,
    }


def published(held: SourceObject, *, error: str | None = None) -> Published:
    """The object's one grid, named for its slot and bearing its etag."""
    return Published(held, (grid(held.slot, checksum=held.etag),), error)


@dataclass(slots=True)
class World:
    """A catalog, its clock, and the states that tests begin with."""

    url: str
    clock: PlayedClock
    catalog: Catalog
    _extra: list[Catalog] = field(default_factory=list)

    def seen(self, *sightings: Sighting) -> int:
        return self.catalog.see(SOURCE, sightings or (sighting(),))

    def claim(self, partition: str = CYCLE, *, owner: str = "a", limit: int | None = None) -> Claim | None:
        return self.catalog.claim(SOURCE, partition, owner=owner, lease=LEASE, limit=limit)

    def claimed(self, partition: str = CYCLE, *, owner: str = "a", limit: int | None = None) -> Claim:
        claim = self.claim(partition, owner=owner, limit=limit)
        assert claim is not None, (
            f"nothing to claim in {partition}: {self.catalog.objects(SOURCE, partition)}"
        )
        return claim

    def commit(self, claim: Claim, snapshot: str = "s1") -> None:
        self.catalog.commit(claim, snapshot, [published(o) for o in claim.objects])

    def ingested(self, *sightings: Sighting, snapshot: str = "s1", partition: str = CYCLE) -> Claim:
        """The sightings are published under this snapshot."""
        self.seen(*sightings)
        claim = self.claimed(partition)
        self.commit(claim, snapshot)
        return claim

    def purged(self, partition: str = CYCLE) -> None:
        """The partition and all older ones went the way of retention."""
        self.clock.advance(LEASE)
        for purge in self.catalog.expire(
            SOURCE, cutoff=end_of(partition) + timedelta(seconds=1), keep_latest=0, owner="purge", lease=LEASE
        ):
            self.catalog.erase(purge)

    def states(self, partition: str = CYCLE) -> dict[tuple[str, str], str]:
        """State by key and etag."""
        return {(o.key, o.etag): o.state for o in self.catalog.objects(SOURCE, partition)}

    def only_object(self, partition: str = CYCLE) -> ObjectRow:
        (row,) = self.catalog.objects(SOURCE, partition)
        return row

    def live(self, partition: str = CYCLE) -> dict[str, str]:
        """What readers get: the etag of each artifact."""
        snapshot = self.catalog.published(SOURCE, partition)
        return {str(a["name"]): str(a["etag"]) for a in snapshot.artifacts} if snapshot else {}

    def count(self, name: str) -> float:
        return sum(c.value for c in self.catalog.counts() if c.name == name)


@contextmanager
def world(url: str) -> Iterator[World]:
    clock = PlayedClock()
    catalog = Catalog.open(url, now=clock)
    try:
        yield World(url, clock, catalog)
    finally:
        catalog.close()


def fresh_sqlite(template: Path, folder: Path) -> str:
    """A copy of a migrated, empty ledger: the migration itself takes a tenth of a second."""
    path = folder / "ledger.db"
    for leftover in folder.glob("ledger.db-*"):
        leftover.unlink()
    shutil.copyfile(template, path)
    return f"sqlite:///{path}"


def empty_postgresql(url: str) -> str:
    """The migrated ledger at this URL without a row; the ledger's id stays."""
    engine = create_engine(url)
    tables = ", ".join(f'"{t.name}"' for t in metadata.sorted_tables if t.name != "ledger")
    with engine.begin() as tx:
        tx.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    engine.dispose()
    return url

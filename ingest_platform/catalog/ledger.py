"""The ledger: which versions exist at the sources, who works on what, and what readers may open.

Each verb is one short transaction and does no I/O but to the database; the rules are those of the
ledger protocol, each with its guard. A database error is raised as it comes: it never looks like
"nothing due" or "gone". `LostLease` and `Stale` mean that nothing was changed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import batched
from typing import Literal, Self

from sqlalchemy import Connection, Engine

from ingest_platform.catalog import claim as claims
from ingest_platform.catalog import commit as commits
from ingest_platform.catalog import coverage as covering
from ingest_platform.catalog import engine as database
from ingest_platform.catalog import gauges as gauging
from ingest_platform.catalog import purge as purges
from ingest_platform.catalog import read
from ingest_platform.catalog.counters import Increments, add
from ingest_platform.catalog.model import (
    Claim,
    Count,
    Coverage,
    Expirable,
    ObjectRow,
    Outcome,
    Overview,
    PartitionRow,
    Purge,
    Request,
    Sighting,
    Snapshot,
    SourceGauges,
)
from ingest_platform.catalog.see import keep_cursor, see
from ingest_platform.catalog.tables import DAWN

# One transaction of see: 1,000 sightings hold the ledger for well under a second.
SIGHTINGS_PER_TRANSACTION = 1_000


def _go_on(_point: str) -> None:
    """Nothing happens at the points where tests interrupt."""


class Catalog:
    """A thin facade: each method is one transaction. Threads may share it, processes open their own."""

    def __init__(
        self,
        engine: Engine,
        *,
        now: database.NowExpression | None = None,
        name: Callable[[], str] = database.random_name,
        at: Callable[[str], None] = _go_on,
    ) -> None:
        self._engine = engine
        self._clock = database.clock(engine, now)
        self._name = name
        self._at = at
        with database.reading(engine) as tx:
            self.ledger_id = read.ledger_id(tx)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        now: database.NowExpression | None = None,
        name: Callable[[], str] = database.random_name,
        at: Callable[[str], None] = _go_on,
    ) -> Self:
        """Connect, and bring the schema up to date; several processes may do so at once.

        `url`: sqlite:///path or postgresql[+psycopg2]://…. `now`: SQL expression of the time, by default
        the database's clock. `name`: gives a name never given before. `at` is called with
        "<verb>: before COMMIT" and "<verb>: after COMMIT".
        """
        engine = database.connect(url)
        database.upgrade(engine)
        return cls(engine, now=now, name=name, at=at)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What is to be done, and who does it.

    def see(self, source: str, sightings: Sequence[Sighting]) -> int:
        """Take down what a listing shows. Returns how many versions became pending.

        Refused without a word: sightings of partitions that are purging, purged or below the horizon.
        """
        became_pending = 0
        for some in batched(sightings, SIGHTINGS_PER_TRANSACTION):
            with self._writing("see") as tx:
                became_pending += see(tx, source, some)
        return became_pending

    def keep_cursor(self, source: str, cursor: str) -> None:
        """Take down how far discovery came. Only a resume token: losing it costs one full pass."""
        with self._writing("keep_cursor") as tx:
            keep_cursor(tx, source, cursor)

    def request(
        self, source: str, *, limit: int = 20, hold_off: timedelta = claims.HOLD_OFF
    ) -> list[Request]:
        """Partitions with due work and no live lease, newest first, each at most once per hold-off."""
        with self._writing("request") as tx:
            return claims.request(tx, self._clock, source, limit, hold_off)

    def claim(
        self,
        source: str,
        partition: str,
        *,
        owner: str,
        lease: timedelta = claims.LEASE,
        limit: int | None = None,
    ) -> Claim | None:
        """Take the partition with its due rows, at most `limit`, oldest version first.

        None: nothing is due, the partition is not open, or another worker holds it.
        """
        with self._writing("claim") as tx:
            return claims.claim(tx, self._clock, self._name, source, partition, owner, lease, limit)

    def hold(
        self, source: str, partition: str, *, owner: str, lease: timedelta = claims.LEASE
    ) -> Claim | None:
        """Take the partition without rows, to repair it or to shrink its repository; `fail` hands it back.

        None: it is not open, or another worker holds it.
        """
        with self._writing("hold") as tx:
            return claims.hold(tx, self._clock, self._name, source, partition, owner, lease)

    def heartbeat(
        self,
        held: Claim | Purge,
        lease: timedelta = claims.LEASE,
        longest_batch: timedelta = claims.LONGEST_BATCH,
    ) -> None:
        """Keep the lease for that long from now. LostLease: stop working, another took over or will."""
        with self._writing("heartbeat") as tx:
            claims.heartbeat(tx, self._clock, held, lease, longest_batch)

    # What became of it.

    def commit(
        self,
        claim: Claim,
        snapshot: str,
        outcomes: Sequence[Outcome],
        *,
        counters: Increments | None = None,
    ) -> None:
        """Name the snapshot and its artifacts, settle the rest, hand the lease back: all or nothing.

        LostLease, Stale: nothing changed. After any error delete nothing and call `fail`: the commit may
        have landed all the same. An object without an outcome keeps its attempt as used.
        """
        with self._writing("commit") as tx:
            commits.commit(tx, self._clock, claim, snapshot, outcomes, counters or {})

    def fail(self, claim: Claim, outcomes: Sequence[Outcome], *, counters: Increments | None = None) -> bool:
        """Settle the rows without a snapshot, hand the lease back; published ones count as postponed.

        False: the lease was no longer this claim's (perhaps its commit had landed), nothing changed.
        """
        with self._writing("fail") as tx:
            return commits.fail(tx, self._clock, claim, outcomes, counters or {})

    def add(self, counters: Increments) -> None:
        """Move counters that no other verb moves: (name, labels) to a positive amount."""
        with self._writing("add") as tx:
            add(tx, counters)

    # How partitions go and come back.

    def expirable(
        self, source: str, *, cutoff: datetime, keep_latest: int, limit: int | None = None
    ) -> tuple[Expirable, ...]:
        """Dry run of expire: the same SELECT at this moment, no effect."""
        with self._reading() as tx:
            return purges.expirable(tx, self._clock, source, cutoff, keep_latest, limit)

    def expire(
        self,
        source: str,
        *,
        cutoff: datetime,
        keep_latest: int,
        owner: str,
        lease: timedelta = claims.LEASE,
        limit: int | None = None,
    ) -> tuple[Purge, ...]:
        """Mark what ended before the cutoff, oldest first, and adopt abandoned purges.

        Never the pinned, the leased, nor the newest `keep_latest` open partitions that have artifacts.
        Then delete everything under each `uri`, then `erase`.
        """
        with self._writing("expire") as tx:
            return purges.expire(tx, self._clock, source, cutoff, keep_latest, owner, lease, limit)

    def erase(self, purge: Purge) -> None:
        """The bytes are deleted: rows go, the tombstone stays. LostLease: nothing changed."""
        with self._writing("erase") as tx:
            purges.erase(tx, purge)

    def admit(self, source: str, partition: str, event_end: datetime) -> bool:
        """Explicit backfill: open a purged or unheard-of partition, pinned. False: it is open or purging."""
        with self._writing("admit") as tx:
            return purges.admit(tx, source, partition, event_end)

    def repair(self, claim: Claim) -> int:
        """The published bytes are lost: name nothing, fetch it all again. Returns how many objects.

        LostLease: nothing changed.
        """
        with self._writing("repair") as tx:
            return purges.repair(tx, claim)

    def requeue(self, source: str, partition: str | None = None) -> int:
        """Give quarantined objects another try, on a person's word. Returns how many."""
        with self._writing("requeue") as tx:
            return purges.requeue(tx, source, partition)

    def unpin(self, source: str, partition: str | None = None) -> int:
        """Hand what was admitted back to retention: in one partition, or in all. Returns how many."""
        with self._writing("unpin") as tx:
            return purges.unpin(tx, source, partition)

    def forget(self, source: str) -> int:
        """Remove tombstones below the horizon, which refuses in their place. Returns how many."""
        with self._writing("forget") as tx:
            return purges.forget(tx, source)

    def trim(self, source: str, partition: str) -> int:
        """Remove versions that gave way to a newer published one, for a partition that never ends.

        Superseded or given up. Returns how many. One that is seen again is filed as superseded, or, at a
        later time, as new.
        """
        with self._writing("trim") as tx:
            return purges.trim(tx, source, partition)

    # What the ledger says.

    def published(self, source: str, partition: str) -> Snapshot | None:
        """What readers may open; None: nothing is published, or it is purged."""
        with self._reading() as tx:
            return read.published(tx, source, partition)

    def every_published(self, source: str) -> tuple[Snapshot, ...]:
        """The same of each partition that has one, by key: for a source of few artifacts."""
        with self._reading() as tx:
            return read.every_published(tx, source)

    def coverage(
        self, source: str, *, since: datetime = DAWN, partition: str | None = None
    ) -> tuple[Coverage, ...]:
        """The open weather partitions that end at `since` or later, counted, by key; or only this one."""
        with self._reading() as tx:
            return covering.coverage(tx, source, since, partition)

    def partition_state(
        self, source: str, partition: str, *, event_end: datetime | None = None
    ) -> Literal["open", "purging", "purged", "forgotten"] | None:
        """None: never seen. `forgotten` is told from it by the event's end."""
        with self._reading() as tx:
            return read.partition_state(tx, source, partition, event_end)

    def has_due(self, source: str, partition: str) -> bool:
        """Whether a claim would find work, if the lease were free."""
        with self._reading() as tx:
            return read.has_due(tx, self._clock, source, partition)

    def due_partitions(self, source: str) -> tuple[str, ...]:
        """Partitions with due work and no live lease, the newest first."""
        with self._reading() as tx:
            return read.due_partitions(tx, self._clock, source)

    def has_published(self) -> bool:
        """Whether the ledger names anything in the store: then the store must carry its marker."""
        with self._reading() as tx:
            return read.has_published(tx)

    def cursor(self, source: str) -> str | None:
        """Where discovery goes on; None: never listed."""
        with self._reading() as tx:
            return read.cursor(tx, source)

    def partitions(self, source: str | None = None) -> tuple[PartitionRow, ...]:
        """All partitions, for reconcile and status: a uri is wanted if one that is not purged names it."""
        with self._reading() as tx:
            return read.partitions(tx, source)

    def objects(self, source: str, partition: str) -> tuple[ObjectRow, ...]:
        """All versions in a partition, by slot, the oldest first."""
        with self._reading() as tx:
            return read.objects(tx, source, partition)

    def overview(self, source: str) -> Overview:
        """A source at a glance. Counts rows: not for a loop."""
        with self._reading() as tx:
            return read.overview(tx, source)

    def clock(self) -> datetime:
        """The database's time, by which leases are counted on every machine."""
        with self._reading() as tx:
            return self._clock(tx)

    def gauges(self, source: str | None = None) -> tuple[SourceGauges, ...]:
        """Every source that was ever seen or listed, by name, or only this one, if it was. Milliseconds,
        also over a million rows.
        """
        with self._reading() as tx:
            return gauging.gauges(tx, self._clock, source)

    def quarantined(self, source: str, *, limit: int = read.SHOWN) -> tuple[ObjectRow, ...]:
        """Given up until a person requeues them, with their reasons; the latest first."""
        with self._reading() as tx:
            return read.quarantined(tx, source, limit)

    def retrying(self, source: str, *, limit: int = read.SHOWN) -> tuple[ObjectRow, ...]:
        """Pending after an error, with its text; the last to be tried again first."""
        with self._reading() as tx:
            return read.retrying(tx, source, limit)

    def counts(self) -> tuple[Count, ...]:
        """Every counter."""
        with self._reading() as tx:
            return read.counts(tx)

    @contextmanager
    def _writing(self, verb: str) -> Iterator[Connection]:
        with self._engine.begin() as tx:
            yield tx
            self._at(f"{verb}: before COMMIT")
        self._at(f"{verb}: after COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with database.reading(self._engine) as tx:
            yield tx

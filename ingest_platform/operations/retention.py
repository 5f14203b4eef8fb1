"""Retention: what is older than its source keeps leaves the store and the ledger, and stays away.

Mark, delete, erase, in this order: readers stop at the mark, the bytes go, the rows go last. A purge that
dies anywhere is finished by the next one. Decides nothing but the cutoff: which partitions that
spares, and every guard, are the ledger's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy.exc import OperationalError

from ingest_platform.catalog.claim import LEASE
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Expirable, Purge, SourceGauges
from ingest_platform.errors import IngestError, LostLease, PermanentError, StoreUnavailable
from ingest_platform.operations import results
from ingest_platform.storage.store import Store

log = logging.getLogger(__name__)

# Marked together, so leased together: a death leaves at most so many to the next purge.
BATCH_PARTITIONS = 32
# A deletion waits for the store, not for us. benchmarks/purge.py
DELETIONS_AT_ONCE = 4
# Of those left, so many stand in the error; the rest is in the facts.
NAMED = 5
# The schedule's period: a purge that hangs longer is relieved by the next one.
LONGEST_PURGE = timedelta(hours=6)
# No clock that is cared for is that wrong, and no source keeps so little that an hour takes it all.
CLOCKS_APART = timedelta(hours=1)


class Retained(Protocol):
    """What a source must say about itself: the weather models do, and any other source's may."""

    @property
    def source_name(self) -> str: ...
    @property
    def retention_hours(self) -> int: ...
    @property
    def keep_latest(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """How long one source's partitions are kept, counted from the end of their event time."""

    source: str  # the ledger's name
    keep: timedelta
    keep_latest: int  # so many of the newest partitions with artifacts are never taken

    def cutoff(self, now: datetime) -> datetime:
        """What ended before it goes; what ended at it stays."""
        return now - self.keep


@dataclass(frozen=True, slots=True)
class Left:
    """A partition that stays marked because its bytes could not be deleted. The next purge tries again."""

    purge: Purge
    error: IngestError


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Partitions of a source that stay marked and were in no hand of this purge: leased to another one.

    That may be at work, or dead, or have left them a moment ago: as many as the last one said it had left.
    """

    source: str
    partitions: int
    refused: int  # of them
    unfinished: int  # of them

    @property
    def errors(self) -> tuple[IngestError, ...]:
        told = f"{self.source}: %d partitions that an earlier purge %s stay leased to it for up to {LEASE}."
        refused = PermanentError(told % (self.refused, "was refused"))
        unfinished = StoreUnavailable(told % (self.unfinished, "could not finish"))
        return (refused,) * bool(self.refused) + (unfinished,) * bool(self.unfinished)


@dataclass(frozen=True, slots=True)
class Purged:
    """What one purge did. It may have done its work and still have failed: ask `error`."""

    done: tuple[Purge, ...]
    left: tuple[Left, ...]
    stopped: IngestError | None  # the store went away: the rest was neither marked nor deleted
    forgotten: int  # tombstones that the horizon speaks for
    elsewhere: tuple[Elsewhere, ...]  # of each policy's source that has any
    without_policy: tuple[str, ...]  # sources that hold data, and no purge of the last day took care of them
    seconds: float

    @property
    def refused(self) -> tuple[Left, ...]:
        """Those that only a person can help: the store denied the deletion."""
        return tuple(left for left in self.left if isinstance(left.error, PermanentError))

    def left_of(self, source: str) -> tuple[int, int]:
        """How many stay marked, refused and unfinished, with those that an earlier purge left and leases."""
        refused = sum(left.purge.source == source for left in self.refused)
        unfinished = sum(left.purge.source == source for left in self.left) - refused
        others = [held for held in self.elsewhere if held.source == source]
        return refused + sum(o.refused for o in others), unfinished + sum(o.unfinished for o in others)

    @property
    def artifacts(self) -> int:
        return sum(purge.artifacts for purge in self.done)

    @property
    def size_bytes(self) -> int:
        return sum(purge.size_bytes for purge in self.done)

    @property
    def error(self) -> IngestError | None:
        """What the caller raises once it has shown the rest: PermanentError if a person must act."""
        errors = [left.error for left in self.left] + ([self.stopped] if self.stopped else [])
        errors += [error for held in self.elsewhere for error in held.errors]
        if not errors:
            return None
        kind = PermanentError if any(isinstance(e, PermanentError) for e in errors) else StoreUnavailable
        first = next(error for error in errors if isinstance(error, kind))
        names = ", ".join(f"{left.purge.source} {left.purge.partition}" for left in self.left[:NAMED])
        numbers = f"{len(self.done)} partitions deleted, {self._refused + self._unfinished} not"
        return kind(
            f"purge: {numbers} ({names or 'none marked by it'}):"
            f" {first} What is left stays marked: nobody reads it, and every purge tries again."
        )

    def facts(self, *, most: int | None = None) -> dict[str, Any]:
        """Plain values for people and JSON; of the partitions at most so many rows."""
        return {
            "partitions": len(self.done),
            "artifacts": self.artifacts,
            "size_bytes": self.size_bytes,
            "refused": self._refused,
            "unfinished": self._unfinished,
            "elsewhere": sum(held.partitions - held.refused - held.unfinished for held in self.elsewhere),
            "forgotten": self.forgotten,
            "seconds": round(self.seconds, 3),
            "purged": rows(self.done[:most]),
            "left": [{**_row(left.purge), "error": str(left.error)} for left in self.left[:most]],
            "without_policy": list(self.without_policy),
        }

    @property
    def _refused(self) -> int:
        return len(self.refused) + sum(held.refused for held in self.elsewhere)

    @property
    def _unfinished(self) -> int:
        return len(self.left) - len(self.refused) + sum(held.unfinished for held in self.elsewhere)


def policies(sources: Iterable[Retained]) -> tuple[Policy, ...]:
    """One for each source, in their order."""
    return tuple(
        Policy(source.source_name, timedelta(hours=source.retention_hours), source.keep_latest)
        for source in sources
    )


def plan(catalog: Catalog, policies: Sequence[Policy], *, now: datetime) -> tuple[Expirable, ...]:
    """The dry run: what a purge would take at this moment. The purge's own SELECT, and no effect.

    PermanentError where a purge would raise it for the clock.
    """
    _check_clock(catalog, now)
    return tuple(
        expirable
        for policy in policies
        for expirable in catalog.expirable(
            policy.source, cutoff=policy.cutoff(now), keep_latest=policy.keep_latest
        )
    )


def _check_clock(catalog: Catalog, now: datetime) -> None:
    """The horizon never comes back: a host that lives days ahead would refuse the data of those days, too."""
    theirs = catalog.clock()
    if abs(now - theirs) > CLOCKS_APART:
        raise PermanentError(
            f"purge: the clock of this host says {now:%Y-%m-%d %H:%M}Z, the ledger's"
            f" {theirs:%Y-%m-%d %H:%M}Z, expected at most {CLOCKS_APART} between them. Nothing was touched."
            " Correct the clock that is wrong, then purge again."
        )


def rows(partitions: Iterable[Expirable | Purge]) -> list[dict[str, object]]:
    """One for each partition, the same for a plan and for what was done."""
    return [_row(partition) for partition in partitions]


def _row(partition: Expirable | Purge) -> dict[str, object]:
    return {
        "source": partition.source,
        "partition": partition.partition,
        "event_end": partition.event_end.isoformat(),
        "artifacts": partition.artifacts,
        "size_bytes": partition.size_bytes,
        "uri": partition.uri,
    }


def purge(
    catalog: Catalog,
    store: Store,
    policies: Sequence[Policy],
    *,
    now: datetime,
    owner: str,
    at: Callable[[str], None] = lambda _point: None,
) -> Purged:
    """Delete what the policies keep no longer, and finish what an earlier purge began.

    A partition whose bytes cannot be deleted is in `left` and stays marked, the others go all the same;
    once the store is away altogether nothing more is marked. Raise its `error`. PermanentError or
    StoreUnavailable, with nothing touched, if the store is another ledger's or away from the start, or if
    `now` is not the ledger's time; a ledger's error at once. `at` is told "before mark", "after mark",
    "delete" (a step of a deletion), "before erase" and "after erase", the last three from several threads.
    """
    started = time.monotonic()
    _check_clock(catalog, now)
    _check_owner(catalog, store)
    shift = _Shift(catalog, store, owner, at)
    forgotten = 0
    for policy in policies:
        shift.work_off(policy, now)
        forgotten += catalog.forget(policy.source)
    done = tuple(sorted(shift.done, key=_by_time))
    left = tuple(sorted(shift.left.values(), key=lambda left: _by_time(left.purge)))
    sources = [policy.source for policy in policies]
    gauges = catalog.gauges()
    elsewhere = _elsewhere(gauges, sources, left)
    uncovered = tuple(name for name in results.unpurged(gauges, now) if name not in sources)
    took = time.monotonic() - started
    purged = Purged(done, left, shift.stopped, forgotten, elsewhere, uncovered, took)
    _keep(catalog, purged, sources, now)
    log.info("purged", extra={"partitions": len(purged.done), "size_bytes": purged.size_bytes})
    return purged


def _elsewhere(
    gauges: Iterable[SourceGauges], sources: Sequence[str], left: Iterable[Left]
) -> tuple[Elsewhere, ...]:
    """What the ledger shows as marked beside what this purge left, with what is known about it."""
    mine = Counter(each.purge.source for each in left)
    before = results.purges(gauges)
    found = []
    for of in gauges:
        others = of.partitions.get("purging", 0) - mine[of.source]
        if of.source in sources and others > 0:
            numbers = before[of.source].numbers if of.source in before else {}
            refused = min(others, numbers.get("refused", 0))
            unfinished = min(others - refused, numbers.get("unfinished", 0))
            found.append(Elsewhere(of.source, others, refused, unfinished))
    return tuple(found)


def _keep(catalog: Catalog, purged: Purged, sources: Iterable[str], now: datetime) -> None:
    for source in sources:
        refused, unfinished = purged.left_of(source)
        told = purged.error if refused or unfinished else purged.stopped
        results.keep_purge(
            catalog, source, at=now, refused=refused, unfinished=unfinished, message=str(told or "")
        )


def _by_time(purge: Purge) -> tuple[str, datetime, str]:
    return purge.source, purge.event_end, purge.partition


def _check_owner(catalog: Catalog, store: Store) -> None:
    """A ledger deletes only in its own store; one that has published nothing yet makes it its own."""
    if catalog.has_published():
        store.verify(catalog.ledger_id)
    else:
        store.bind(catalog.ledger_id)


@dataclass(slots=True)
class _Shift:
    """One purge at work, with what became of each partition so far."""

    catalog: Catalog
    store: Store
    owner: str
    at: Callable[[str], None]
    done: list[Purge] = field(default_factory=list)
    left: dict[int, Left] = field(default_factory=dict)  # by partition id
    stopped: IngestError | None = None

    def work_off(self, policy: Policy, now: datetime) -> None:
        """All that the policy keeps no longer, batch by batch, while the store is there."""
        while self._store_is_there() and (marked := self._mark(policy, now)):
            # A long purge meets again what it left: its lease ran out meanwhile.
            fresh = [purge for purge in marked if purge.partition_id not in self.left]
            with _heartbeat(self.catalog, fresh) as held, ThreadPoolExecutor(DELETIONS_AT_ONCE) as threads:
                # An error of the ledger cancels what has not begun: the next purge adopts it.
                list(threads.map(lambda purge: self._finish(purge, held), fresh))

    def _store_is_there(self) -> bool:
        """Looked at before each batch: an empty mount point would read as `all deleted`."""
        try:
            self.store.verify(self.catalog.ledger_id)
        except (PermanentError, StoreUnavailable) as error:
            self.stopped = error
        return self.stopped is None

    def _mark(self, policy: Policy, now: datetime) -> tuple[Purge, ...]:
        self.at("before mark")
        marked = self.catalog.expire(
            policy.source,
            cutoff=policy.cutoff(now),
            keep_latest=policy.keep_latest,
            owner=self.owner,
            lease=LEASE,
            limit=BATCH_PARTITIONS,
        )
        self.at("after mark")
        return marked

    def _finish(self, purge: Purge, held: _Held) -> None:
        """Delete and erase one marked partition, or note why it is left."""
        try:
            self._delete(purge)
            self.at("before erase")
            self.catalog.erase(purge)
            self.at("after erase")
            self.done.append(purge)
        except LostLease:
            log.warning("another purge took over", extra={"partition": purge.partition})
        except (PermanentError, StoreUnavailable) as error:
            self.left[purge.partition_id] = Left(purge, error)
        finally:
            held.discard(purge)

    def _delete(self, purge: Purge) -> None:
        if purge.uri is None:
            return
        if self.stopped is not None:
            raise self.stopped
        try:
            self.store.delete_tree(purge.uri, self.at)
        except StoreUnavailable:
            # One tree that cannot be deleted must not stop the others; a store that is away must.
            self._store_is_there()
            raise


_Held = set[Purge]


@contextmanager
def _heartbeat(catalog: Catalog, purges: Iterable[Purge]) -> Iterator[_Held]:
    """Renew the leases of those still held. A lost one is found out by erase, which is fenced."""
    held = set(purges)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(LEASE.total_seconds() / 3):
            for purge in tuple(held):
                try:
                    catalog.heartbeat(purge, LEASE, LONGEST_PURGE)
                except LostLease:
                    held.discard(purge)
                except OperationalError:
                    # The next beat tries again; if the lease runs out meanwhile, another purge goes on.
                    break

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        over.set()
        thread.join()

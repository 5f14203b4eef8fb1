"""Compares store and ledger both ways: bytes that no partition names, partitions that lost their bytes.

The ledger names a repository before its first byte is written. The store is listed first and the ledger
read then, so what is listed and not named has lost its name, and as no uri is given twice it gets none again.
What is not named as the ledger names things, below a source that it knows, is not ours and is not looked at.
Deletes whole uris only, repairs only under the partition's lease. What could not be read is trouble,
told and left alone: never an orphan, never lost.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ingest_platform.catalog.claim import LONGEST_BATCH
from ingest_platform.catalog.counters import of_source
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Claim, PartitionRow
from ingest_platform.errors import IngestError, LostLease, StoreUnavailable
from ingest_platform.operations.proofs import proof_of
from ingest_platform.operations.results import keep_reconcile
from ingest_platform.storage.store import Store

log = logging.getLogger(__name__)

# No batch is held longer than LONGEST_BATCH; what nobody wrote to for twice as long has no writer. No safety
# rests on it: it spares a writer that is only slow the work of a whole batch.
AGE_GUARD = 2 * LONGEST_BATCH
# A worker that dies before its partition's first commit leaves an orphan, and so does a repair: a few a day.
# Where a tenth of the store has no name, the ledger is the one that lost something.
MAX_SHARE = 0.1
# So many are never too large a share: a small store with one partition may hold ten dead attempts at it.
ALWAYS_FEW = 10
# A HEAD waits for the store, not for us.
LOOKS_AT_ONCE = 8
# Each takes the store's client all its patience, minutes. So many mean that the store itself is away.
UNANSWERED_ENOUGH = 5


@dataclass(frozen=True, slots=True)
class Orphan:
    """A uri that holds bytes and that no partition names."""

    uri: str
    objects: int
    size_bytes: int
    age: timedelta  # since the last write below it

    @property
    def source(self) -> str:
        return self.uri.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Loss:
    """A partition whose snapshot can never be read again: the store lost objects, or their bytes."""

    source: str
    partition: str
    uri: str
    snapshot: str
    missing: tuple[str, ...]  # paths in the store; the first of them, if there are many
    torn: tuple[str, ...] = ()  # there, and not what was written; only a deep look finds them


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found, and what was done about it. Ask `well` whether anything is left to worry about."""

    applied: bool
    stored: int  # uris that the store holds
    orphans: tuple[Orphan, ...]  # old enough to go
    young: tuple[Orphan, ...]  # may have a writer: left alone
    lost: tuple[Loss, ...]
    removed: tuple[Orphan, ...] = ()
    repaired: tuple[Loss, ...] = ()
    requeued_objects: int = 0  # of the repaired: fetched again if the source still has them
    refused: str | None = None  # why no orphan was deleted
    troubles: tuple[str, ...] = ()  # what could not be read, deleted or repaired
    seconds: float = 0.0

    @property
    def left(self) -> tuple[Orphan | Loss, ...]:
        """Found and not healed. A dry run leaves all."""
        healed = {orphan.uri for orphan in self.removed} | {loss.uri for loss in self.repaired}
        found: tuple[Orphan | Loss, ...] = (*self.orphans, *self.lost)
        return tuple(item for item in found if item.uri not in healed)

    @property
    def well(self) -> bool:
        """Store and ledger agree now, as far as they were asked, and everything could be asked."""
        return not (self.left or self.refused or self.troubles)

    @property
    def message(self) -> str:
        """One line for people."""
        freed = sum(orphan.size_bytes for orphan in self.removed)
        told = (
            f"{self.stored} repositories stored; {len(self.orphans)} orphans found, {len(self.removed)}"
            f" removed ({freed} bytes), {len(self.young)} too young to judge; {len(self.lost)} partitions"
            f" lost, {len(self.repaired)} of them queued again ({self.requeued_objects} objects)"
        )
        return ". ".join([told, *filter(None, [self.refused]), *self.troubles])

    def facts(self) -> dict[str, Any]:
        """Plain values for people and JSON."""
        return {
            "applied": self.applied,
            "well": self.well,
            "stored": self.stored,
            "orphans": [_orphan_row(orphan) for orphan in self.orphans],
            "young": [_orphan_row(orphan) for orphan in self.young],
            "lost": [_loss_row(loss) for loss in self.lost],
            "removed": len(self.removed),
            "bytes_removed": sum(orphan.size_bytes for orphan in self.removed),
            "repaired": len(self.repaired),
            "requeued_objects": self.requeued_objects,
            "refused": self.refused,
            "troubles": list(self.troubles),
            "seconds": round(self.seconds, 3),
        }


def reconcile(
    catalog: Catalog,
    store: Store,
    *,
    now: datetime,
    apply: bool,
    owner: str,
    deep: bool = False,
    max_share: float = MAX_SHARE,
    age_guard: timedelta = AGE_GUARD,
    at: Callable[[str], None] = lambda _point: None,
) -> Findings:
    """Find orphans and losses, and with `apply` remove the ones and queue the others again.

    Without `apply` nothing changes anywhere. `deep` asks for every object that a snapshot needs, else for the
    one alone that proves it. `now` judges the orphans' age only. `max_share`: of the stored
    uris, 0 to 1; where more are orphans, none is deleted.

    With `apply` the result is kept in the ledger. Raises PermanentError if the store is not this ledger's,
    StoreUnavailable if it cannot be listed: then nothing was changed. A ledger's error is raised at once;
    what was done before it stands. `at` is told
    "after list", "after read", "delete" (a step of a deletion), "between deletes",
    "before repair's lease", "after lease", "after repair".
    """
    started = time.monotonic()
    store.verify(catalog.ledger_id)
    # A source that is born from here on has no orphan yet.
    sources = {known.source for known in catalog.gauges()}
    stored = tuple(store.list_uris(sources))
    at("after list")
    rows = catalog.partitions()
    at("after read")
    visit = _Visit(catalog, store, owner, at)
    orphans, young = visit.find_orphans(stored, rows, now, age_guard)
    refused = _refusal(orphans, len(stored), max_share)
    if apply and refused is None:
        visit.remove(orphans)
    lost = visit.find_lost(rows, deep=deep)
    if apply:
        visit.repair(lost)
    findings = Findings(
        applied=apply,
        stored=len(stored),
        orphans=tuple(orphan for orphan in orphans if orphan.uri not in visit.settled),
        young=young,
        lost=tuple(loss for loss in lost if loss.uri not in visit.settled),
        removed=tuple(visit.removed),
        repaired=tuple(visit.repaired),
        requeued_objects=visit.requeued_objects,
        refused=refused,
        troubles=tuple(visit.troubles),
        seconds=time.monotonic() - started,
    )
    if apply:
        _keep(catalog, findings, now)
    log.info("reconciled", extra={"left": len(findings.left), "troubles": len(findings.troubles)})
    return findings


def _keep(catalog: Catalog, findings: Findings, now: datetime) -> None:
    """For metrics and the status page, which look when nothing runs."""
    left = Counter(type(item) for item in findings.left)
    keep_reconcile(
        catalog,
        at=now,
        orphans=left[Orphan],
        lost=left[Loss],
        troubles=len(findings.troubles),
        message="" if findings.well else findings.message,
    )


def _refusal(orphans: Sequence[Orphan], stored: int, max_share: float) -> str | None:
    """A belt: against a ledger that was restored from an old backup, or emptied by hand."""
    if len(orphans) <= max(ALWAYS_FEW, max_share * stored):
        return None
    return (
        f"{len(orphans)} of {stored} stored repositories are named by no partition, expected at most"
        f" {max_share:.0%} of them: no orphan was deleted, all bytes are still there. Was the ledger restored"
        " from an older backup? Then mend it first. If they may go, apply again with max_share 1."
    )


@dataclass(slots=True)
class _Visit:
    """One reconcile at work, with what it did so far."""

    catalog: Catalog
    store: Store
    owner: str
    at: Callable[[str], None]
    removed: list[Orphan] = field(default_factory=list)
    repaired: list[Loss] = field(default_factory=list)
    requeued_objects: int = 0
    troubles: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)  # folders without a file, of deletions that died
    settled: set[str] = field(default_factory=set)  # uris that others healed before we came to it
    unanswered: int = 0

    def find_orphans(
        self, stored: Sequence[str], rows: Sequence[PartitionRow], now: datetime, age_guard: timedelta
    ) -> tuple[tuple[Orphan, ...], tuple[Orphan, ...]]:
        """What no partition names that is not purged: old enough to go, and too young."""
        wanted = {row.uri for row in rows if row.state != "purged"}
        unnamed = [uri for uri in stored if uri not in wanted]
        found = tuple(self._ask(unnamed, lambda uri: self._weigh(uri, now)))
        self.empty = [uri for uri, orphan in found if orphan is None]
        orphans = [orphan for _, orphan in found if orphan is not None]
        old = tuple(orphan for orphan in orphans if orphan.age >= age_guard)
        return old, tuple(orphan for orphan in orphans if orphan.age < age_guard)

    def _weigh(self, uri: str, now: datetime) -> tuple[str, Orphan | None]:
        tree = self.store.weigh(uri)
        if tree is None:
            return uri, None
        return uri, Orphan(uri, tree.objects, tree.size_bytes, now - tree.newest)

    def remove(self, orphans: Sequence[Orphan]) -> None:
        for uri in self.empty:
            self._delete(uri)
        for orphan in orphans:
            if not self._delete(orphan.uri):
                continue
            # After the deletion: a death in between may lose one from the count, never invent one.
            self.catalog.add(
                of_source(
                    orphan.source, orphans_removed_total=1, orphan_bytes_removed_total=orphan.size_bytes
                )
            )
            self.removed.append(orphan)
            self.at("between deletes")

    def _delete(self, uri: str) -> bool:
        """True if there was something, and nothing is left."""
        if self.store_is_away:
            return False
        try:
            # While this one slept another reconcile may have deleted it, and counted it.
            if self.store.weigh(uri) is None:
                self.settled.add(uri)
            self.store.delete_tree(uri, self.at)
        except IngestError as error:
            self._note(error)
            return False
        return uri not in self.settled

    def find_lost(self, rows: Sequence[PartitionRow], *, deep: bool) -> tuple[Loss, ...]:
        """Partitions whose bytes the store says it does not have, while the ledger still names them."""
        named = [row for row in rows if row.state == "open" and row.snapshot is not None]
        losses = [loss for loss in self._ask(named, lambda row: self._look(row, deep)) if loss]
        if not losses:
            return ()
        # A disk that was unmounted since the listing has no snapshot either, and no marker.
        self.store.verify(self.catalog.ledger_id)
        # A purge deletes what it has marked; it may have begun since the rows were read.
        still = {(row.uri, row.snapshot) for row in self.catalog.partitions() if row.state == "open"}
        return tuple(loss for loss in losses if (loss.uri, loss.snapshot) in still)

    def _look(self, row: PartitionRow, deep: bool) -> Loss | None:
        assert row.uri is not None  # noqa: S101 - a partition with a snapshot has a place
        assert row.snapshot is not None  # noqa: S101 - find_lost takes no other
        proof = proof_of(row.source)
        path = proof.path(row.uri, row.snapshot)
        if self._is_gone(path):
            return Loss(row.source, row.partition, row.uri, row.snapshot, (path,))
        if not deep:
            return None
        missing, torn = proof.lost(self.store, row.uri, row.snapshot)
        if not (missing or torn):
            return None
        return Loss(row.source, row.partition, row.uri, row.snapshot, missing, torn)

    def _is_gone(self, path: str) -> bool:
        seen = self.store.head(path)
        # We write no empty object, but a power cut leaves one of a file that was not flushed yet.
        return seen is None or seen.size_bytes == 0

    def repair(self, lost: Sequence[Loss]) -> None:
        for loss in lost:
            if self.store_is_away:
                return
            self.at("before repair's lease")
            try:
                self._repair(loss)
            except IngestError as error:
                self._note(error)

    def _repair(self, loss: Loss) -> None:
        """Queue it again, if it is free and, looked at under its lease, still lost."""
        held = self.catalog.hold(loss.source, loss.partition, owner=self.owner)
        if held is None:
            raise LostLease(
                f"{loss.source} {loss.partition}: lost, but another worker holds it. The next reconcile"
                " looks again."
            )
        self.at("after lease")
        try:
            still_lost = self._still_lost(loss, held)
        except BaseException:
            self.catalog.fail(held, ())
            raise
        if not still_lost:
            self.catalog.fail(held, ())
            self.settled.add(loss.uri)
            return
        self.requeued_objects += self.catalog.repair(held)
        self.repaired.append(loss)
        self.at("after repair")

    def _still_lost(self, loss: Loss, held: Claim) -> bool:
        if (held.uri, held.snapshot) != (loss.uri, loss.snapshot):
            return False
        gone = any(self._is_gone(path) for path in loss.missing)
        if not gone and loss.torn:
            gone = any(proof_of(loss.source).lost(self.store, loss.uri, loss.snapshot))
        self.store.verify(self.catalog.ledger_id)
        return gone

    def _ask[Item, Answer](
        self, items: Sequence[Item], question: Callable[[Item], Answer]
    ) -> Iterator[Answer]:
        """The store's answers, several at a time; what it could not answer is trouble."""
        with ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="look") as threads:
            for asked in [threads.submit(question, item) for item in items]:
                try:
                    yield asked.result()
                except IngestError as error:
                    self._note(error)
                if self.store_is_away:
                    threads.shutdown(cancel_futures=True)
                    return

    def _note(self, error: IngestError) -> None:
        self.troubles.append(str(error))
        self.unanswered += isinstance(error, StoreUnavailable)

    @property
    def store_is_away(self) -> bool:
        """The rest is not worth asking for."""
        return self.unanswered >= UNANSWERED_ENOUGH


def _orphan_row(orphan: Orphan) -> dict[str, object]:
    return {
        "uri": orphan.uri,
        "objects": orphan.objects,
        "size_bytes": orphan.size_bytes,
        "age_hours": round(orphan.age / timedelta(hours=1), 2),
    }


def _loss_row(loss: Loss) -> dict[str, object]:
    return {
        "source": loss.source,
        "partition": loss.partition,
        "uri": loss.uri,
        "snapshot": loss.snapshot,
        "missing": list(loss.missing),
        "torn": list(loss.torn),
    }

"""Turns an organism's due version into its published index: claim, load, check, build, store, commit, serve.

State moves only with a successful index: ETag, refresh time and hashes lie in the row that the commit
writes. The output folder that SILO's API polls is a projection of that row: filled after the commit by one
rename, and again by whoever finds it missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ingest_platform.catalog.lease import LEDGER_AWAY, OUR_OWN_FAULT, hand_back, kept_alive
from ingest_platform.catalog.model import Artifact, Claim, Published, SourceObject
from ingest_platform.errors import Damaged, IngestError, LostLease, StoreUnavailable
from ingest_platform.silo import tally
from ingest_platform.silo.blame import RowsLost, outcomes_of
from ingest_platform.silo.database import Database, database_of
from ingest_platform.silo.engines.contract import Built, Engine, EngineError
from ingest_platform.silo.inputs import index_hash, lay_out
from ingest_platform.silo.lineage import LineageFile, definitions, require_known
from ingest_platform.silo.model import Organism
from ingest_platform.silo.rails import Rails
from ingest_platform.silo.read import SOURCE, Live, live
from ingest_platform.silo.release import Release, obtain
from ingest_platform.silo.serve import (
    RESTORE_AGAIN,
    STAGING,
    collect,
    discard,
    fetch_above,
    held_off,
    put_index,
    serve,
    standing,
    take_back,
)
from ingest_platform.silo.served import Index, number
from ingest_platform.silo.stopping import unless_stopped
from ingest_platform.silo.taxonomy import hierarchies, layout_of
from ingest_platform.storage.scratch import scratch_folder

# A killed importer's organism is taken over within two minutes; the heartbeat renews it every third.
LEASE = timedelta(seconds=90)
# Besides the deadlines of download and engine: others' downloads and builds that this one waits for.
LONGEST_WAIT = timedelta(hours=2)

What = Literal["imported", "unchanged", "nothing due", "failed"]


@dataclass(slots=True)
class Report:
    """What one import did to one organism; what its materialization shows."""

    organism: str
    what: What = "nothing due"
    index: Live | None = None  # what the ledger names now; None: nothing yet
    downloaded: bool = False
    engine_seconds: float = 0.0  # of this import; 0: no build
    log_tail: str = ""  # of this import's engine, also of one that failed
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    error: Exception | None = None  # of "failed"; or what keeps an imported index from being served


def import_organism(rails: Rails, organism: Organism, *, owner: str, accept_row_drop: bool = False) -> Report:
    """Import the organism's due version, if there is one, and see that the published index is served.

    What goes wrong is in the report, and with the ledger: the version waits, or is given up. Raises only what
    nobody foresaw, and a ledger that is away. `accept_row_drop`: this once, publish however few rows.
    """
    report, started = Report(organism.id), time.monotonic()
    try:
        rails.store.require(rails.catalog.ledger_id)
        rails.at("before claim")
        claim = rails.catalog.claim(SOURCE, organism.id, owner=owner, lease=LEASE, limit=1)
        if claim is not None:
            rails.at("after claim")
            _Import(rails, organism, claim, report, accept_row_drop).run()
        else:
            _serve_published(rails, organism, report)
    except IngestError as error:
        report.what, report.error = "failed", error
    report.index = live(rails.catalog, organism.id)
    report.seconds = time.monotonic() - started
    return report


def needs_serving(rails: Rails, organism: Organism) -> bool:
    """Whether an import has an index to restore in the output folder, though nothing is due: a cheap look.

    Not for some minutes after a try that failed. StoreUnavailable: the folder cannot be looked at.
    """
    index = live(rails.catalog, organism.id)
    return index is not None and not held_off(rails, organism) and standing(index, organism) == "missing"


def _serve_published(rails: Rails, organism: Organism, report: Report) -> None:
    """What an importer that died behind its commit has left undone."""
    index = live(rails.catalog, organism.id)
    if index is None or standing(index, organism) != "missing":
        return
    if held_off(rails, organism):
        raise StoreUnavailable(
            f"{organism.output}: index {index.index_timestamp} is missing, and could not be restored a moment"
            f" ago. It is tried again {RESTORE_AGAIN.seconds // 60} minutes after that."
        )
    report.warnings += serve(rails, organism, index)
    report.warnings.append(f"index {index.index_timestamp} was missing from {organism.output}: restored")


@dataclass(frozen=True, slots=True)
class _Plan:
    """A release with all that its index is made of."""

    release: Release
    database: Database
    engine: Engine
    lineages: tuple[LineageFile, ...]
    index_hash: str
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Import:
    """One claim at work."""

    rails: Rails
    organism: Organism
    claim: Claim
    report: Report
    accept_row_drop: bool
    started: float = field(default_factory=time.monotonic)
    loaded_bytes: int = 0  # as the backend sent them, by this import

    @property
    def item(self) -> SourceObject:
        return self.claim.objects[0]

    def run(self) -> None:
        """The ledger commit is the switch; on an error before it nothing that is named was touched."""
        timeouts = self.organism.timeouts.total_seconds + self.organism.engine.timeout_seconds
        longest = timedelta(seconds=timeouts) + LONGEST_WAIT
        try:
            with kept_alive(self.rails.catalog, self.claim, lease=LEASE, longest=longest):
                self._import()
        except LostLease as lost:
            self.report.what, self.report.error = "failed", lost
        except BaseException as error:
            # Nobody knows whether a commit landed: fail is a no-op if it did.
            self.rails.at("inside fail")
            self._give_back(error)
            if not isinstance(error, (IngestError, *OUR_OWN_FAULT)):
                raise
            self.report.what, self.report.error = "failed", error

    def _give_back(self, error: BaseException) -> None:
        if isinstance(error, EngineError):
            self.report.log_tail = error.log_tail
        if isinstance(error, Damaged):
            self._doubt_what_is_kept()
        outcomes = outcomes_of(self.item, error)
        hand_back(
            self.rails.catalog,
            self.claim,
            outcomes,
            counters=lambda: tally.handed_back(self.organism.id, error, outcomes, self._cost()),
        )

    def _cost(self, engine_seconds: float = 0.0) -> tally.Cost:
        return tally.Cost(time.monotonic() - self.started, engine_seconds, self.loaded_bytes)

    def _doubt_what_is_kept(self) -> None:
        """A backend may have mended what it sends under the same ETag: looked at as often as a refresh is."""
        age = timedelta(seconds=self.organism.hard_refresh_seconds)
        self.rails.keeper(self.organism).drop_older(than=self.rails.clock() - age)

    def _import(self) -> None:
        before = live(self.rails.catalog, self.organism.id)
        self.report.warnings += collect(self.rails, self.claim)
        with scratch_folder(self.rails.scratch) as scratch:
            plan = self._plan(scratch.folder, before)
            same = before if before is not None and before.index_hash == plan.index_hash else None
            if same is not None and standing(same, self.organism) != "hidden":
                self._settle(self._moved(plan, same), same.snapshot, "unchanged")
                self._serve(None)
                return
            with scratch_folder(self.organism.output / STAGING) as staging:
                if same is not None:
                    self._bring_forward(plan, same, staging.folder)
                else:
                    self._build(plan, before, scratch.folder, staging.folder)

    def _plan(self, scratch: Path, before: Live | None) -> _Plan:
        """Everything that can be wrong without an engine is found here."""
        rails, organism = self.rails, self.organism
        database = database_of(organism)
        layout = layout_of(organism, database)
        engine = rails.engine(organism)
        with rails.downloads:
            release = obtain(rails, organism, self.item, self.claim.token, scratch / "records.zst", layout)
        self.report.downloaded = release.downloaded
        self.loaded_bytes = release.released.body_bytes if release.downloaded else 0
        lineages = unless_stopped(rails.stop, partial(_lineages, rails, organism, release), what=organism.id)
        unknown = require_known(organism, database, lineages, release.released.lineages)
        dropped = self._check_rows(release.released.rows, before)
        made_of = index_hash(release.released.content_hash, lineages, database, engine.identity)
        warnings = (*release.released.warnings, *unknown, *dropped)
        rails.at("after checks")
        return _Plan(release, database, engine, lineages, made_of, warnings)

    def _check_rows(self, rows: int, before: Live | None) -> tuple[str, ...]:
        if before is None or rows >= before.rows:
            return ()
        told = f"{self.organism.id}: {rows:,} records where the published index has {before.rows:,}"
        limit = self.organism.row_drop_limit
        if self.accept_row_drop or 1 - rows / before.rows <= limit:
            return (told,)
        raise RowsLost(
            f"{told}: more than {limit:.0%} are gone. Nothing was published, the index with {before.rows:,}"
            " stays. If the backend is right, import once with --accept-row-drop, or raise row_drop_limit."
        )

    def _build(self, plan: _Plan, before: Live | None, scratch: Path, staging: Path) -> None:
        rails, organism, released = self.rails, self.organism, plan.release.released
        output = staging / "index"
        output.mkdir()
        inputs = lay_out(
            scratch / "inputs",
            plan.database,
            plan.release.records,
            released.rows,
            plan.lineages,
            staging=output,
        )
        rails.at("before engine")
        with rails.builds:
            limit = organism.engine.timeout_seconds
            built = plan.engine.build(inputs, output, timeout_seconds=limit, stop=rails.stop)
        rails.at("after engine")
        # A name that was never used, and tells how old it is: `collect` deletes older ones only.
        snapshot = f"{self.claim.token}-{plan.index_hash[:16]}"
        sent = False
        try:
            above = before.index_timestamp if before else 0
            built = replace(built, index=number(built.index, organism.output, above=above))
            put_index(rails, self.claim, snapshot, built.index, plan.release.body, _about(plan))
            rails.at("after store")
            rails.store.require(rails.catalog.ledger_id)
            sent = True
            self._settle(self._made(plan, built, snapshot), snapshot, "imported")
        except BaseException:
            self._undo(built.index, snapshot, sent=sent)
            raise
        self.report.engine_seconds, self.report.log_tail = built.seconds, built.log_tail
        self._serve(built.index)

    def _undo(self, index: Index, snapshot: str, *, sent: bool) -> None:
        """What no ledger can name goes. Of a commit that was sent, it alone knows whether it landed."""
        if not sent:
            self.report.warnings += discard(self.rails, self.claim, snapshot)
        elif self._may_be_named(index):
            return
        take_back(index, self.organism)

    def _may_be_named(self, index: Index) -> bool:
        try:
            named = live(self.rails.catalog, self.organism.id)
        except LEDGER_AWAY:
            return True
        return named is not None and named.index_timestamp == index.timestamp

    def _bring_forward(self, plan: _Plan, before: Live, staging: Path) -> None:
        """The same index under a number that the API takes: it goes on with another than the ledger names."""
        index = fetch_above(self.rails, self.organism, before, staging)
        told = f"{self.organism.output}: {before.index_timestamp} was not served, it is {index.timestamp} now"
        self.report.warnings.append(told)
        moved = replace(
            self._moved(plan, before), index_timestamp=index.timestamp, index_bytes=index.size_bytes
        )
        self._settle(moved, before.snapshot, "unchanged")
        self._serve(index)

    def _made(self, plan: _Plan, built: Built, snapshot: str) -> Live:
        now = self.rails.clock()
        released = plan.release.released
        return Live(
            organism=self.organism.id,
            uri=self.claim.uri,
            snapshot=snapshot,
            rows=released.rows,
            body_bytes=released.body_bytes,
            content_bytes=released.content_bytes,
            index_bytes=built.index.size_bytes,
            content_hash=released.content_hash,
            index_hash=plan.index_hash,
            etag=plan.release.etag,
            pipeline_versions=released.pipeline_versions,
            lineages=_told(plan.lineages),
            warnings=plan.warnings,
            engine=plan.engine.identity,
            engine_seconds=built.seconds,
            log_tail=built.log_tail,
            built_at=now,
            refreshed_at=now,
            index_timestamp=built.index.timestamp,
        )

    def _moved(self, plan: _Plan, before: Live) -> Live:
        """The same index, looked at again."""
        return replace(
            before, etag=plan.release.etag, refreshed_at=self.rails.clock(), warnings=plan.warnings
        )

    def _settle(self, index: Live, snapshot: str, what: tally.Good) -> None:
        artifact = Artifact(
            name=self.organism.id,
            size_bytes=index.index_bytes + index.body_bytes,
            checksum=index.index_hash,
            transform_version=index.engine,
            details=index.details(),
        )
        cost = self._cost(index.engine_seconds if what == "imported" else 0.0)
        moved = tally.committed(self.organism.id, what, cost)
        self.rails.catalog.commit(self.claim, snapshot, [Published(self.item, (artifact,))], counters=moved)
        self.rails.at("after commit")
        self.report.what = what
        self.report.warnings += index.warnings
        self.rails.keeper(self.organism).drop()
        self.rails.catalog.trim(SOURCE, self.organism.id)

    def _serve(self, built: Index | None) -> None:
        """The commit stands whatever happens here; the next import or tick serves what is missing."""
        index = live(self.rails.catalog, self.organism.id)
        if index is None:
            return
        try:
            self.report.warnings += serve(self.rails, self.organism, index, built)
        except IngestError as error:
            self.report.error = error


def _lineages(rails: Rails, organism: Organism, release: Release) -> tuple[LineageFile, ...]:
    return (
        *definitions(organism, release.released.pipeline_versions, rails.pool),
        *hierarchies(organism, release.released.lineages, rails.pool),
    )


def _told(lineages: tuple[LineageFile, ...]) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {"system": file.system, "version": file.version, "url": file.url, "sha256": file.content_hash}
        for file in lineages
    )


def _about(plan: _Plan) -> Mapping[str, Any]:
    """For people who find the snapshot without its ledger."""
    released = plan.release.released
    return {
        "rows": released.rows,
        "content_hash": released.content_hash,
        "index_hash": plan.index_hash,
        "etag": plan.release.etag,
        "pipeline_versions": {str(version or ""): n for version, n in released.pipeline_versions.items()},
        "lineages": _told(plan.lineages),
        "engine": plan.engine.identity,
    }

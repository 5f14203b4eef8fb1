"""A ledger with a store to purge from: partitions whose every artifact is an object in the store.

States are reached through the real verbs; a reader can look at any moment whether what it is shown is there.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ingest_platform.catalog.model import Claim, Snapshot
from ingest_platform.operations.retention import CLOCKS_APART, Policy, Purged, plan, purge
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.store import Store, open_store
from ingest_platform_tests.contract.ledger_world import (
    LEASE,
    SOURCE,
    World,
    cycles,
    end_of,
    published,
    sighting,
)
from ingest_platform_tests.services.s3 import S3Server

KEEP = timedelta(hours=24)
NOBODY = 65534


@dataclass(slots=True)
class Shelf:
    """Ingest with `ingested`, purge with `purge`, look with `check_readers`."""

    ledger: World
    store: Store
    violations: list[str] = field(default_factory=list)

    def ingested(
        self, key: str, *slots: str, source: str = SOURCE, end: datetime | None = None, snapshot: str = "s1"
    ) -> Claim:
        """The partition is published: an object for each artifact, and one that a snapshot would be."""
        ended = end or end_of(key)
        names = slots or ("f000", "f001")
        seen = [
            sighting(f"{source}/{key}/{name}", partition=key, slot=name, event_end=ended) for name in names
        ]
        self.ledger.catalog.see(source, seen)
        claim = self.ledger.catalog.claim(source, key, owner="worker", lease=LEASE)
        assert claim is not None, (source, key)
        self.write(claim)
        self.ledger.catalog.commit(claim, snapshot, [published(o) for o in claim.objects])
        return claim

    def ingested_cycles(self, number: int, source: str = SOURCE) -> list[str]:
        """Consecutive six-hourly cycles, the oldest first."""
        keys = cycles(number)
        for key in keys:
            self.ingested(key, source=source)
        return keys

    def write(self, claim: Claim) -> None:
        """What a worker puts into the store before it commits."""
        for held in claim.objects:
            self.store.put(f"{claim.uri}/chunks/{held.slot}", b"values")
        self.store.put(f"{claim.uri}/snapshots/s", b"snapshot")

    def policy(self, keep: timedelta = KEEP, *, keep_latest: int = 0, source: str = SOURCE) -> Policy:
        return Policy(source, keep, keep_latest)

    def purge(
        self,
        *policies: Policy,
        now: datetime,
        at: Callable[[str], None] = lambda _point: None,
    ) -> Purged:
        """A purge during which a reader looks at every point. It is `now` for the ledger, too."""
        self.live_until(now)

        def watched(point: str) -> None:
            self.check_readers(point)
            at(point)

        done = purge(
            self.ledger.catalog,
            self.store,
            policies or (self.policy(),),
            now=now,
            owner="purge",
            at=watched,
        )
        assert self.violations == []
        return done

    def planned(self, *policies: Policy, now: datetime) -> list[tuple[str, str]]:
        self.live_until(now)
        wanted = plan(self.ledger.catalog, policies or (self.policy(),), now=now)
        return [(found.source, found.partition) for found in wanted]

    def live_until(self, now: datetime) -> None:
        """The ledger's clock comes to the host's, unless it is there already, give or take a few leases."""
        if abs(self.ledger.clock.at - now) > CLOCKS_APART:
            self.ledger.clock.at = now

    def check_readers(self, point: str = "the end") -> None:
        """Take down every artifact that the ledger shows at this moment and the store does not have."""
        for row in self.ledger.catalog.partitions():
            shown = self.ledger.catalog.published(row.source, row.partition)
            if shown is None:
                continue
            missing = self._missing(shown)
            # It may have been purged between the statement and the look: then the statement says so.
            if missing and self.ledger.catalog.published(row.source, row.partition) == shown:
                self.violations.append(f"{point}: {row.partition} shows {missing}, which are gone")

    def _missing(self, shown: Snapshot) -> list[str]:
        names = [f"chunks/{artifact['name']}" for artifact in shown.artifacts] + ["snapshots/s"]
        return [name for name in names if self.store.head(f"{shown.uri}/{name}") is None]

    def open_partitions(self, source: str = SOURCE) -> list[str]:
        return [row.partition for row in self.ledger.catalog.partitions(source) if row.state == "open"]

    def state(self, key: str, source: str = SOURCE) -> str | None:
        return self.ledger.catalog.partition_state(source, key, event_end=end_of(key))

    def check_tidy(self) -> None:
        """The store holds exactly what the ledger names."""
        named = [row.uri for row in self.ledger.catalog.partitions() if row.state != "purged" and row.uri]
        assert list(self.store.list_uris()) == sorted(named)


def shelf_over(ledger: World, request: pytest.FixtureRequest, folder: Path) -> Shelf:
    """SQLite beside a folder, PostgreSQL beside S3."""
    if ledger.url.startswith("sqlite"):
        store = open_store((folder / "data").as_uri())
    else:
        store = on_s3(request.getfixturevalue("s3_server"))
    store.bind(ledger.catalog.ledger_id)
    return Shelf(ledger, store)


def on_s3(server: S3Server, bucket: str | None = None) -> Store:
    return open_store(
        f"s3://{bucket or server.fresh_bucket()}/published",
        credentials=Credentials(server.access_key, server.secret_key),
        endpoint=server.endpoint,
        region=server.region,
    )


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Until the block ends, nobody may take a file out of the folder: not even root, who acts as nobody."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def folder_of_nobody() -> Iterator[Path]:
    """A folder that root can work in as nobody, too: pytest's own ones are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="retention-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def give_to_nobody(root: Path, *, but: Path) -> None:
    """Root gives everything below away except one folder, which `unwritable` then protects."""
    if os.geteuid() != 0:
        return
    for path in (root, *root.rglob("*")):
        if path != but:
            os.chown(path, NOBODY, NOBODY)

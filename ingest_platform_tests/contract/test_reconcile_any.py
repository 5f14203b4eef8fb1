"""Whatever store and ledger look like: exactly the unnamed go, exactly the lost are fetched again."""

import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_platform.operations.reconcile import AGE_GUARD, reconcile
from ingest_platform.storage.store import Store, open_store
from ingest_platform_tests.contract.ledger_world import (
    SOURCE,
    World,
    cycles,
    end_of,
    fresh_sqlite,
    sighting,
    world,
)

NOW = datetime(2026, 11, 21, tzinfo=UTC)
Fate = Literal["seen", "claimed", "failed", "published", "lost", "lost and held", "purging", "purged"]
FATES: list[Fate] = ["seen", "claimed", "failed", "published", "lost", "lost and held", "purging", "purged"]
ages = st.sampled_from([timedelta(0), AGE_GUARD - timedelta(seconds=1), AGE_GUARD, timedelta(days=9)])


@dataclass(slots=True)
class Case:
    """A world in the making, and what reconcile should do to it."""

    ledger: World
    store: Store
    kept: set[str]
    lost: set[str]

    def make(self, key: str, fate: Fate) -> None:
        self.ledger.seen(sighting(f"{key}/f000", partition=key))
        if fate == "seen":
            return
        claim = self.ledger.claimed(key)
        if fate == "failed":
            self.ledger.catalog.fail(claim, [])
        elif fate != "claimed":
            self.ledger.commit(claim)
        if fate not in ("lost", "lost and held"):
            self.put(f"{claim.uri}/snapshots/s1", timedelta(days=9))
        self.put(f"{claim.uri}/chunks/c", timedelta(days=9))
        if fate == "lost and held":
            assert self.ledger.catalog.hold(SOURCE, key, owner="worker", lease=timedelta(days=1))
        if fate == "lost":
            self.lost.add(key)
        if fate in ("purging", "purged"):
            (purge,) = self.ledger.catalog.expire(
                SOURCE, cutoff=end_of(key) + timedelta(seconds=1), keep_latest=0, owner="purge"
            )
            if fate == "purged":  # by a purge to which the store gave some bytes back
                self.ledger.catalog.erase(purge)
        self.kept.add(claim.uri)
        # Of a repaired partition the remnant is found by the next reconcile: the ledger was read before.
        if fate == "purged":
            self.kept.discard(claim.uri)

    def put(self, path: str, age: timedelta) -> None:
        self.store.put(path, b"x")
        assert self.store.folder is not None
        written = (NOW - age).timestamp()
        os.utime(self.store.folder / path, (written, written))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(FATES), max_size=6), st.lists(ages, max_size=4), st.booleans())
def test_exactly_the_unnamed_go_and_exactly_the_lost_are_fetched_again(
    sqlite_template: Path, fates: list[Fate], orphans: list[timedelta], apply: bool
) -> None:
    """Else there is a state of the world in which the janitor throws away what is in use."""
    with (
        tempfile.TemporaryDirectory() as folder,
        world(fresh_sqlite(sqlite_template, Path(folder))) as ledger,
    ):
        store = open_store((Path(folder) / "data").as_uri())
        store.bind(ledger.catalog.ledger_id)
        case = Case(ledger, store, set(), set())
        ledger.catalog.keep_cursor(SOURCE, "listed once")
        # The purged first: a purge takes all that ended before.
        order = sorted(fates, key=lambda fate: fate not in ("purging", "purged"))
        for key, fate in zip(cycles(len(order)), order, strict=True):
            case.make(key, fate)
        for number, age in enumerate(orphans):
            uri = f"{SOURCE}/2026/{number:024x}"
            case.put(f"{uri}/chunks/c", age)
            if age < AGE_GUARD:
                case.kept.add(uri)
        stored, rows = set(store.list_uris()), ledger.catalog.partitions()

        found = reconcile(ledger.catalog, store, now=NOW, apply=apply, owner="reconcile")

        assert {orphan.uri for orphan in found.orphans} == stored - case.kept
        held = {key for key, fate in zip(cycles(len(order)), order, strict=True) if fate == "lost and held"}
        assert {loss.partition for loss in found.lost} == case.lost | held
        if not apply:
            assert (set(store.list_uris()), ledger.catalog.partitions()) == (stored, rows)
            return
        assert set(store.list_uris()) == case.kept
        assert {loss.partition for loss in found.repaired} == case.lost
        assert found.well == (not held)
        for key in case.lost:
            assert set(ledger.states(key).values()) == {"pending"}

"""Reconcile finds what store and ledger disagree about, both ways, and heals it."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.catalog.model import Snapshot
from ingest_platform.errors import StoreUnavailable
from ingest_platform.operations.reconcile import AGE_GUARD, ALWAYS_FEW, Findings
from ingest_platform.weather.ingest import ingest_partition
from ingest_platform.weather.read import NotPublished
from ingest_platform_tests.contract.reconcile_world import (
    DEAD,
    HRRR,
    PARTITION,
    ingested,
    look,
    lose,
    named,
    paths_below,
    world_on,
)
from ingest_platform_tests.weather_world import World


@pytest.fixture(params=["sqlite and folder", "postgresql and s3"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A weather world on each database and each store."""
    return world_on(request.param, request, tmp_path)


@pytest.fixture(params=["sqlite and folder", "postgresql and folder", "sqlite and s3", "postgresql and s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A weather world on each database with each store."""
    return world_on(request.param, request, tmp_path)


@pytest.mark.case(24)
def test_orphans_and_losses_are_listed_without_a_change_and_healed_when_told(anywhere: World) -> None:
    """Else bytes that nobody names fill the disk, and a cycle that lost its bytes is never read again."""
    here = anywhere
    before = ingested(here)
    grids = here.grids(HRRR)
    here.rails.store.put(f"{DEAD}/chunks/c", b"half a repository")
    lose(here.rails.store, f"{before.uri}/snapshots/{before.snapshot}")
    rows, stored = here.catalog.partitions(), list(here.rails.store.list_uris())
    counted = here.catalog.counts()

    seen = look(here, apply=False)

    assert ([o.uri for o in seen.orphans], [o.size_bytes for o in seen.orphans]) == ([DEAD], [17])
    assert [(loss.partition, loss.snapshot) for loss in seen.lost] == [(PARTITION, before.snapshot)]
    assert not seen.well
    assert (here.catalog.partitions(), list(here.rails.store.list_uris())) == (rows, stored)
    assert here.catalog.counts() == counted

    done = look(here, apply=True)

    assert (done.orphans, done.lost) == (seen.orphans, seen.lost) or done.orphans[0].age > seen.orphans[0].age
    assert (done.removed, done.repaired, done.requeued_objects) == (done.orphans, done.lost, 2)
    assert done.well, done.message
    assert list(here.rails.store.list_uris()) == [before.uri]
    assert here.states(HRRR) == ["pending", "pending"]
    with pytest.raises(NotPublished, match="not ingested yet"):
        here.open(HRRR)

    here.ingest(HRRR)

    assert here.grids(HRRR) == grids
    assert here.open(HRRR).load().sizes["lead"] == 2
    last = look(here, apply=True)
    assert [orphan.uri for orphan in last.removed] == [before.uri]
    assert look(here, apply=True).message.startswith("1 repositories stored; 0 orphans")
    assert {
        c.name: c.value for c in here.catalog.counts() if c.name.startswith(("orphans", "partitions_re"))
    } == {
        "orphans_removed_total": 2,
        "partitions_repaired_total": 1,
    }


@pytest.mark.case(24)
@pytest.mark.parametrize("kind", ["chunks", "manifests", "refs/branch.main"])
def test_a_deep_look_finds_a_single_lost_object_and_heals_it(kind: str, here: World) -> None:
    """Else a deleted chunk is found by the user who asks for that very grid."""
    before = ingested(here)
    grids = here.grids(HRRR)
    gone = paths_below(here.rails.store, f"{before.uri}/{kind}")[0]
    lose(here.rails.store, gone)

    shallow = look(here, apply=True)
    seen = look(here, apply=False, deep=True)
    done = look(here, apply=True, deep=True)
    here.ingest(HRRR)

    assert shallow.lost == ()
    assert [loss.missing for loss in seen.lost] == [(gone,)], seen.message
    assert done.requeued_objects == 2
    assert here.grids(HRRR) == grids
    here.open(HRRR).load()
    assert look(here, apply=False, deep=True).lost == ()


def test_a_healthy_world_is_left_alone(here: World) -> None:
    """Else every schedule's tick fetches or deletes something."""
    before = ingested(here)

    done = look(here, apply=True, deep=True)

    assert (done.orphans, done.young, done.lost, done.troubles) == ((), (), (), ())
    assert done.well
    assert named(here) == before
    assert here.catalog.partitions()[0].lease_owner is None


@pytest.mark.case(24)
def test_what_the_source_has_no_longer_is_told_and_not_tried_for_ever(place: World) -> None:
    """Else a loss that nobody can heal looks like a cycle that is still coming."""
    before = ingested(place)
    lose(place.rails.store, f"{before.uri}/snapshots/{before.snapshot}")
    for file in (place.root / "mirror").rglob("*grib2*"):
        file.unlink()

    look(place, apply=True)
    for _ in range(9):
        for key in place.catalog.due_partitions(HRRR.source_name):
            ingest_partition(place.rails, HRRR, key, owner="test")
        place.advance(hours=12)

    assert place.states(HRRR) == ["quarantined", "quarantined"]
    assert look(place, apply=True).lost == ()


@pytest.mark.case(23)
def test_a_repository_born_between_listing_and_reading_is_no_orphan(here: World) -> None:
    """Else what a run published a second ago is deleted under its readers."""
    for lead in (0, 1):
        here.put_lead(HRRR, lead)

    def publish(point: str) -> None:
        if point == "after list":
            here.ingest(HRRR)

    done = look(here, apply=True, age_guard=timedelta(0), at=publish)

    assert (done.orphans, done.lost) == ((), ())
    here.open(HRRR).load()


@pytest.mark.case(23)
@pytest.mark.parametrize(
    "point", ["after claim", "after create_branch", "after chunks", "after the store commit"]
)
def test_a_batch_that_is_being_written_is_not_touched(point: str, here: World) -> None:
    """Else the garbage collector deletes a grid between its first byte and its commit."""
    for lead in (0, 1):
        here.put_lead(HRRR, lead)
    seen: list[Findings] = []

    def meanwhile(passed: str) -> None:
        if passed == point:
            seen.append(look(here, apply=True, age_guard=timedelta(0)))

    here.rails = replace(here.rails, at=meanwhile)
    reports = here.ingest(HRRR)

    assert [(found.orphans, found.lost) for found in seen] == [((), ())]
    assert [report.published for report in reports] == [2]
    here.open(HRRR).load()


@pytest.mark.case(23)
@pytest.mark.parametrize("point", ["after create_branch", "after chunks", "after the store commit"])
def test_a_slow_writer_whose_repository_was_taken_commits_nothing(point: str, here: World) -> None:
    """Else the ledger names a repository that reconcile has just deleted."""
    for lead in (0, 1):
        here.put_lead(HRRR, lead)
    found: list[Findings] = []
    taken_over: list[Snapshot] = []

    def sleep_past_the_lease(passed: str) -> None:
        if passed == point and not found:
            here.advance(hours=1)
            here.rails = replace(here.rails, at=lambda _: None)
            here.ingest(HRRR)
            taken_over.append(named(here))
            found.append(look(here, apply=True))

    here.rails = replace(here.rails, at=sleep_past_the_lease)
    with suppress(StoreUnavailable):
        here.ingest(HRRR)

    assert len(found[0].removed) == 1
    assert [named(here)] == taken_over
    here.open(HRRR).load()
    assert look(here, apply=True, deep=True).lost == ()
    assert list(here.rails.store.list_uris()) == [named(here).uri]


def test_an_orphan_is_left_alone_until_no_batch_can_be_that_old(place: World) -> None:
    """Else a writer that is only slow loses an hour's work."""
    ingested(place)
    place.rails.store.put(f"{DEAD}/chunks/c", b"x")
    guard = AGE_GUARD / timedelta(hours=1)

    early = look(place, apply=True, hours_later=guard - 0.1)
    late = look(place, apply=True, hours_later=guard + 0.1)

    assert ([o.uri for o in early.young], early.removed) == ([DEAD], ())
    assert early.well
    assert [o.uri for o in late.removed] == [DEAD]


def test_a_partition_that_is_being_purged_keeps_its_repository(place: World) -> None:
    """Else reconcile and purge delete one tree at once, and one of them fails over the other."""
    before = ingested(place)
    place.catalog.expire(HRRR.source_name, cutoff=place.at + timedelta(days=9), keep_latest=0, owner="purge")

    done = look(place, apply=True)

    assert (done.orphans, done.lost) == ((), ())
    assert list(place.rails.store.list_uris()) == [before.uri]


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_more_orphans_than_a_store_can_well_have_are_shown_and_kept(share: float, place: World) -> None:
    """Else a ledger restored from last week's backup costs a week of data."""
    ingested(place)
    for number in range(ALWAYS_FEW + 1):
        place.rails.store.put(f"{DEAD[:-2]}{number:02}/chunks/c", b"x")

    done = look(place, apply=True, max_share=share)

    assert len(done.orphans) == ALWAYS_FEW + 1
    if share == 1.0:
        assert (len(done.removed), done.refused) == (ALWAYS_FEW + 1, None)
        return
    assert done.removed == ()
    assert not done.well
    assert done.refused is not None
    assert "11 of 12 stored repositories are named by no partition, expected at most 10%" in done.refused
    assert "no orphan was deleted" in done.message


def test_an_empty_tree_of_a_deletion_that_died_goes_without_a_word(place: World) -> None:
    """Else each killed deletion leaves a folder for ever, or an alarm about nothing."""
    ingested(place)
    assert place.rails.store.folder is not None
    (place.rails.store.folder / DEAD / "chunks").mkdir(parents=True)

    done = look(place, apply=True)

    assert (done.orphans, done.young) == ((), ())
    assert not (place.rails.store.folder / DEAD).exists()

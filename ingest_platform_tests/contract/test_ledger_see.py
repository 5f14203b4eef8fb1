"""see and request: what a listing shows becomes work, once."""

from datetime import timedelta

import pytest

from ingest_platform.catalog.model import Failed
from ingest_platform_tests.contract.ledger_world import (
    CYCLE,
    HOLD_OFF,
    LEASE,
    LONG_AFTER,
    SOURCE,
    World,
    cycles,
    end_of,
    sighting,
)


def test_a_version_seen_first_is_pending(ledger: World) -> None:
    """Else nothing would ever be fetched."""
    assert ledger.seen(sighting("f000"), sighting("f001")) == 2

    assert ledger.states() == {("f000", "e1"): "pending", ("f001", "e1"): "pending"}
    assert ledger.catalog.has_due(SOURCE, CYCLE)


def test_a_version_seen_again_changes_nothing(ledger: World) -> None:
    """Else every poll would fetch the bucket again."""
    ledger.ingested(sighting())

    assert ledger.seen(sighting()) == 0

    assert ledger.states() == {("f000", "e1"): "ingested"}
    assert not ledger.catalog.has_due(SOURCE, CYCLE)


def test_the_same_version_twice_in_one_listing_counts_once(ledger: World) -> None:
    """Else overlapping pages of a listing would break the poll."""
    assert ledger.seen(sighting(), sighting()) == 1


def test_a_newer_version_supersedes_the_pending_one(ledger: World) -> None:
    """Else both would be fetched, and the older might be published last."""
    ledger.seen(sighting(etag="e1", minute=0))

    assert ledger.seen(sighting(etag="e2", minute=1)) == 1

    assert ledger.states() == {("f000", "e1"): "superseded", ("f000", "e2"): "pending"}


def test_an_older_version_seen_late_is_superseded_from_birth(ledger: World) -> None:
    """Else a slow listing would put an old forecast over a new one."""
    ledger.seen(sighting(etag="e2", minute=1))

    assert ledger.seen(sighting(etag="e1", minute=0)) == 0

    assert ledger.states() == {("f000", "e1"): "superseded", ("f000", "e2"): "pending"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_several_versions_in_one_listing_the_newest_is_pending(
    ledger: World, order: tuple[int, ...]
) -> None:
    """Else the order of a listing would decide what users see."""
    assert ledger.seen(*(sighting(etag=f"e{i}", minute=i) for i in order)) == 1

    assert ledger.states()["f000", "e2"] == "pending"
    assert sorted(ledger.states().values()) == ["pending", "superseded", "superseded"]


@pytest.mark.case(11)
def test_keys_that_share_a_slot_compete(ledger: World) -> None:
    """Else a GOES scan published twice would be two grids for one moment."""
    ledger.seen(sighting("c1", "x", minute=1, slot="scan"), sighting("c2", "y", minute=2, slot="scan"))

    assert ledger.states() == {("c1", "x"): "superseded", ("c2", "y"): "pending"}


def test_versions_of_one_moment_are_ordered_by_their_sighting(ledger: World) -> None:
    """Last-Modified has seconds: two versions within one would block each other."""
    ledger.seen(sighting(etag="e1"))

    ledger.seen(sighting(etag="e2"))

    assert ledger.states() == {("f000", "e1"): "superseded", ("f000", "e2"): "pending"}


def test_a_source_that_returns_to_an_old_version_gets_it_published_again(ledger: World) -> None:
    """Else a rollback at the source (A-B-A) would leave the withdrawn version with our users."""
    ledger.ingested(sighting(etag="a", minute=0), snapshot="s1")
    ledger.ingested(sighting(etag="b", minute=1), snapshot="s2")

    assert ledger.seen(sighting(etag="a", minute=2)) == 1
    ledger.commit(ledger.claimed(), "s3")

    assert ledger.live() == {"f000": "a"}
    assert ledger.states() == {("f000", "a"): "ingested", ("f000", "b"): "superseded"}


def test_a_quarantined_version_that_returns_begins_with_a_clean_record(ledger: World) -> None:
    """Else a file that the source repaired in place would stay out for ever."""
    ledger.seen(sighting(etag="a", minute=0))
    claim = ledger.claimed()
    ledger.catalog.fail(claim, [Failed(claim.objects[0], "no GRIB", permanent=True)])

    assert ledger.seen(sighting(etag="a", minute=1)) == 1

    row = ledger.only_object()
    assert (row.state, row.attempts, row.error, row.next_attempt_at) == ("pending", 0, None, None)


def test_a_live_version_that_returns_calls_off_the_one_between(ledger: World) -> None:
    """Else the version between is fetched and refused as stale, for ever."""
    ledger.ingested(sighting(etag="a", minute=0))
    ledger.seen(sighting(etag="b", minute=1))

    assert ledger.seen(sighting(etag="a", minute=2)) == 0

    assert ledger.states() == {("f000", "a"): "ingested", ("f000", "b"): "superseded"}
    assert not ledger.catalog.has_due(SOURCE, CYCLE)


def test_a_version_keeps_its_first_partition(ledger: World) -> None:
    """Else a changed partition scheme would count one object twice, or break the poll."""
    first, second = cycles(2)
    ledger.seen(sighting(partition=first))

    assert ledger.seen(sighting(partition=second)) == 0

    assert ledger.states(first) == {("f000", "e1"): "pending"}
    assert ledger.states(second) == {}


def test_see_counts_what_became_pending_over_many_transactions(ledger: World) -> None:
    """Else a backfill of thousands would report the last part only."""
    many = [sighting(f"f{i:04d}") for i in range(2_100)]

    assert ledger.seen(*many) == 2_100
    assert ledger.count("objects_seen_total") == 2_100


def test_request_names_the_newest_partitions_first_and_no_more_than_asked(ledger: World) -> None:
    """Else a backfill of a week would hold up the cycle that users wait for."""
    old, middle, new = cycles(3)
    ledger.seen(*(sighting(f"{key}/f000", partition=key) for key in (middle, old, new)))

    assert asked(ledger, limit=2) == [(new, 1), (middle, 1)]
    assert asked(ledger, limit=2) == [(old, 1)]


def test_a_request_is_repeated_under_a_new_number_once_the_hold_off_is_over(ledger: World) -> None:
    """Else a run that died before its claim would leave a used run key: never started again."""
    ledger.seen()
    first = asked(ledger)

    too_soon = asked(ledger)
    ledger.clock.advance(HOLD_OFF)
    again = asked(ledger)

    assert first == [(CYCLE, 1)]
    assert too_soon == []
    assert again == [(CYCLE, 2)]


def test_a_partition_that_was_forgotten_and_came_back_has_new_run_keys(ledger: World) -> None:
    """Else the orchestrator, which forgets no key, never starts a run for what a backfill brought back."""
    ledger.seen()
    (before,) = ledger.catalog.request(SOURCE)
    for purge in ledger.catalog.expire(SOURCE, cutoff=end_of(CYCLE) + LEASE, keep_latest=0, owner="purge"):
        ledger.catalog.erase(purge)
    assert ledger.catalog.forget(SOURCE) == 1

    ledger.catalog.admit(SOURCE, CYCLE, end_of(CYCLE))
    ledger.seen()
    (after,) = ledger.catalog.request(SOURCE)

    assert (before.partition, before.number) == (after.partition, after.number)
    assert before.run_key != after.run_key


def test_no_request_while_a_worker_holds_the_partition(ledger: World) -> None:
    """Else every tick would start a run that finds nothing to do."""
    ledger.seen(sighting("f000"))
    ledger.claimed()
    ledger.seen(sighting("f001"))

    held = ledger.catalog.request(SOURCE)
    ledger.clock.advance(LEASE)
    expired = asked(ledger)

    assert held == []
    assert expired == [(CYCLE, 1)]


def test_no_request_for_what_is_done_waiting_or_gone(ledger: World) -> None:
    """Else the queue fills with runs for nothing."""
    ledger.ingested(sighting("f000"))
    done = ledger.catalog.request(SOURCE)

    ledger.seen(sighting("f001"))
    claim = ledger.claimed()
    ledger.catalog.fail(claim, [Failed(claim.objects[0], "404")])
    waiting = ledger.catalog.request(SOURCE)
    ledger.clock.advance(LONG_AFTER)
    due = ledger.catalog.request(SOURCE, hold_off=timedelta())

    ledger.catalog.expire(SOURCE, cutoff=end_of(CYCLE) + timedelta(1), keep_latest=0, owner="p", lease=LEASE)
    ledger.clock.advance(LONG_AFTER)
    purging = ledger.catalog.request(SOURCE)

    assert (done, waiting, [r.partition for r in due], purging) == ([], [], [CYCLE], [])


def asked(ledger: World, limit: int = 20) -> list[tuple[str, int]]:
    """What a sensor would start runs for, with the request's number."""
    requests = ledger.catalog.request(SOURCE, limit=limit, hold_off=HOLD_OFF)
    return [(request.partition, request.number) for request in requests]

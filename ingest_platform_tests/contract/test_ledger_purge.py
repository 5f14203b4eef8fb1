"""expire, erase, admit, repair, requeue, forget: how partitions leave, and the only ways back."""

from datetime import UTC, datetime, timedelta

import pytest

from ingest_platform.catalog.model import Failed, Outcome, Postponed, Purge
from ingest_platform.errors import LostLease
from ingest_platform_tests.contract.ledger_world import (
    CYCLE,
    LEASE,
    LONG_AFTER,
    SOURCE,
    World,
    cycles,
    end_of,
    published,
    sighting,
)

MOMENT = timedelta(microseconds=1)


def expire(
    ledger: World, *, cutoff: datetime, keep_latest: int = 0, limit: int | None = None
) -> tuple[Purge, ...]:
    return ledger.catalog.expire(
        SOURCE, cutoff=cutoff, keep_latest=keep_latest, owner="purge", lease=LEASE, limit=limit
    )


def ingested_cycles(ledger: World, number: int) -> list[str]:
    keys = cycles(number)
    for key in keys:
        ledger.ingested(sighting(f"{key}/f000", partition=key), partition=key)
    return keys


@pytest.mark.case(25)
def test_what_ends_at_the_cutoff_is_kept(ledger: World) -> None:
    """Else retention would take an hour more than it says."""
    first, second = ingested_cycles(ledger, 2)

    assert expire(ledger, cutoff=end_of(first)) == ()
    assert [p.partition for p in expire(ledger, cutoff=end_of(first) + MOMENT)] == [first]
    assert ledger.catalog.partition_state(SOURCE, second) == "open"


def test_readers_stop_at_the_mark(ledger: World) -> None:
    """Else they would open a snapshot whose bytes are being deleted."""
    claim = ledger.ingested(sighting())

    (purge,) = expire(ledger, cutoff=end_of(CYCLE) + MOMENT)

    assert ledger.catalog.published(SOURCE, CYCLE) is None
    assert ledger.catalog.partition_state(SOURCE, CYCLE) == "purging"
    assert purge.uri == claim.uri


@pytest.mark.case(35)
def test_erase_leaves_the_tombstone_and_counts_what_went(ledger: World) -> None:
    """Else the next listing would bring the partition back, and the graph of freed bytes would lie."""
    ledger.ingested(sighting("f000"), sighting("f001"))
    (purge,) = expire(ledger, cutoff=end_of(CYCLE) + MOMENT)

    ledger.catalog.erase(purge)

    (row,) = ledger.catalog.partitions(SOURCE)
    assert (row.state, row.uri, row.snapshot, row.lease_until) == ("purged", None, None, None)
    assert ledger.catalog.objects(SOURCE, CYCLE) == ()
    assert ledger.count("artifacts_purged_total") == 2
    assert ledger.count("bytes_purged_total") == ledger.count("bytes_published_total") == 20


def test_the_newest_partitions_with_artifacts_are_kept(ledger: World) -> None:
    """Else an upstream outage of ten days would leave users with nothing."""
    old, good, empty = cycles(3)
    for key in (old, good):
        ledger.ingested(sighting(f"{key}/f000", partition=key), partition=key)
    ledger.seen(sighting(f"{empty}/f000", partition=empty))

    taken = expire(ledger, cutoff=end_of(empty) + LONG_AFTER, keep_latest=1)

    assert [p.partition for p in taken] == [old, empty]
    assert ledger.catalog.published(SOURCE, good) is not None


def test_a_second_purge_keeps_the_same_newest(ledger: World) -> None:
    """Listed and marked apart, two purges would take the last two."""
    keys = ingested_cycles(ledger, 3)

    first = expire(ledger, cutoff=end_of(keys[-1]) + MOMENT, keep_latest=2)
    second = expire(ledger, cutoff=end_of(keys[-1]) + MOMENT, keep_latest=2)

    assert [p.partition for p in first] == keys[:1]
    assert second == ()


@pytest.mark.case(23)
def test_a_partition_with_a_live_lease_is_left_to_its_worker(ledger: World) -> None:
    """Else a late lead's bytes would be deleted under a live row."""
    ledger.seen()
    claim = ledger.claimed()

    assert expire(ledger, cutoff=end_of(CYCLE) + MOMENT) == ()
    ledger.commit(claim)
    assert len(expire(ledger, cutoff=end_of(CYCLE) + MOMENT)) == 1


def test_a_worker_that_wakes_after_the_mark_cannot_commit(ledger: World) -> None:
    """Else a purged partition would come back without its bytes."""
    ledger.seen()
    sleeper = ledger.claimed()
    ledger.clock.advance(LEASE)
    expire(ledger, cutoff=end_of(CYCLE) + MOMENT)

    with pytest.raises(LostLease):
        ledger.commit(sleeper)

    assert ledger.catalog.partition_state(SOURCE, CYCLE) == "purging"


@pytest.mark.case(22)
def test_the_next_purge_adopts_one_that_died(ledger: World) -> None:
    """Else half-deleted bytes would lie about for ever. The dead one, if it wakes, is refused."""
    ledger.ingested(sighting())
    (dead,) = expire(ledger, cutoff=end_of(CYCLE) + MOMENT)
    too_soon = expire(ledger, cutoff=end_of(CYCLE) + MOMENT)
    ledger.clock.advance(LEASE)

    (adopted,) = expire(ledger, cutoff=end_of(CYCLE) - LONG_AFTER)  # retention was lengthened meanwhile
    with pytest.raises(LostLease):
        ledger.catalog.erase(dead)
    ledger.catalog.heartbeat(adopted)
    ledger.catalog.erase(adopted)

    assert too_soon == ()
    assert adopted.uri == dead.uri
    assert ledger.catalog.partition_state(SOURCE, CYCLE) == "purged"


def test_erase_twice_is_refused(ledger: World) -> None:
    """Else a purge whose answer was lost would erase what was admitted since."""
    ledger.ingested(sighting())
    (purge,) = expire(ledger, cutoff=end_of(CYCLE) + MOMENT)
    ledger.catalog.erase(purge)

    with pytest.raises(LostLease):
        ledger.catalog.erase(purge)


def test_a_limit_purges_the_oldest_first(ledger: World) -> None:
    """A purge of a year goes in steps, each within its lease."""
    keys = ingested_cycles(ledger, 3)
    cutoff = end_of(keys[-1]) + MOMENT

    assert [p.partition for p in expire(ledger, cutoff=cutoff, limit=2)] == keys[:2]
    assert [p.partition for p in expire(ledger, cutoff=cutoff, limit=2)] == keys[2:]


@pytest.mark.case(26)
def test_the_dry_run_lists_exactly_what_the_purge_then_takes(ledger: World) -> None:
    """Else a person would approve one list and lose another."""
    keys = ingested_cycles(ledger, 4)
    ledger.seen(sighting("late", partition=keys[0]))
    ledger.claimed(keys[0])
    cutoff = end_of(keys[-1]) + MOMENT

    planned = ledger.catalog.expirable(SOURCE, cutoff=cutoff, keep_latest=1)
    again = ledger.catalog.expirable(SOURCE, cutoff=cutoff, keep_latest=1)
    taken = expire(ledger, cutoff=cutoff, keep_latest=1)

    assert planned == again
    assert [(p.partition, p.uri) for p in planned] == [(p.partition, p.uri) for p in taken]
    assert [(p.partition, p.artifacts, p.size_bytes) for p in planned] == [(keys[1], 1, 10), (keys[2], 1, 10)]


@pytest.mark.case(27)
def test_a_purged_partition_refuses_everything_its_source_still_lists(ledger: World) -> None:
    """A new etag, or a lead never seen before, would bring it back if purged were told by object."""
    ledger.ingested(sighting("f000", "e1"))
    ledger.purged()

    assert ledger.seen(sighting("f000", "e1"), sighting("f000", "e2", minute=1), sighting("f001")) == 0

    assert ledger.catalog.objects(SOURCE, CYCLE) == ()
    assert ledger.claim() is None


@pytest.mark.case(28)
def test_what_was_forgotten_stays_purged_by_the_horizon(ledger: World) -> None:
    """Else retention shortened and lengthened again would fetch a week anew."""
    old, new = ingested_cycles(ledger, 2)
    ledger.purged(old)

    assert ledger.catalog.forget(SOURCE) == 1
    expire(ledger, cutoff=end_of(old) - LONG_AFTER)  # a lower cutoff does not bring the horizon down

    assert ledger.seen(sighting("f001", partition=old)) == 0
    assert ledger.catalog.partition_state(SOURCE, old) is None
    assert ledger.catalog.partition_state(SOURCE, old, event_end=end_of(old)) == "forgotten"
    assert ledger.catalog.partition_state(SOURCE, new, event_end=end_of(new)) == "open"


def test_a_first_sighting_below_the_horizon_is_refused_and_at_it_taken(ledger: World) -> None:
    """The horizon speaks for every partition without a row."""
    ledger.ingested(sighting())
    ledger.purged()
    horizon = end_of(CYCLE) + timedelta(seconds=1)

    assert ledger.seen(sighting("x", partition="below", event_end=horizon - MOMENT)) == 0
    assert ledger.seen(sighting("y", partition="at", event_end=horizon)) == 1


def test_each_source_has_its_own_horizon(ledger: World) -> None:
    """Else the retention of GFS would refuse an archive of audio."""
    ledger.ingested(sighting())
    ledger.purged()

    assert ledger.catalog.see("audio", [sighting(event_end=datetime(1890, 1, 1, tzinfo=UTC))]) == 1


@pytest.mark.case(27)
def test_admit_is_the_way_back_and_pins(ledger: World) -> None:
    """Else the next retention would take the backfill away again."""
    first = ledger.ingested(sighting("f000"))
    ledger.purged()

    assert ledger.catalog.admit(SOURCE, CYCLE, end_of(CYCLE))
    second = ledger.ingested(sighting("f000"), snapshot="s2")

    assert second.uri != first.uri
    assert second.token > first.token
    assert ledger.live() == {"f000": "e1"}
    assert expire(ledger, cutoff=end_of(CYCLE) + LONG_AFTER) == ()


def test_unpin_hands_a_backfill_back_to_retention(ledger: World) -> None:
    """Else what a person brought back once would be kept for ever."""
    first, second = cycles(2)
    for key in (first, second):
        ledger.catalog.admit(SOURCE, key, end_of(key))
        ledger.ingested(sighting(f"{key}/f000", partition=key), partition=key)

    one, again, rest = (ledger.catalog.unpin(SOURCE, key) for key in (first, first, None))

    assert (one, again, rest) == (1, 0, 1)
    taken = expire(ledger, cutoff=end_of(second) + MOMENT)
    assert [p.partition for p in taken] == [first, second]


def test_admit_opens_what_was_forgotten(ledger: World) -> None:
    """Else the horizon could never be crossed, even by a person's word."""
    ledger.ingested(sighting("f000"))
    ledger.purged()
    ledger.catalog.forget(SOURCE)

    assert ledger.catalog.admit(SOURCE, CYCLE, end_of(CYCLE))

    assert ledger.seen(sighting("f000")) == 1


def test_admit_leaves_open_and_purging_partitions_alone(ledger: World) -> None:
    """Else an admission would take the partition from the purge that deletes its bytes."""
    ledger.ingested(sighting())
    while_open = ledger.catalog.admit(SOURCE, CYCLE, end_of(CYCLE))
    expire(ledger, cutoff=end_of(CYCLE) + MOMENT)

    while_purging = ledger.catalog.admit(SOURCE, CYCLE, end_of(CYCLE))

    assert (while_open, while_purging) == (False, False)
    assert ledger.catalog.partition_state(SOURCE, CYCLE) == "purging"


def test_a_sleeper_of_a_forgotten_partition_meets_no_new_one(ledger: World) -> None:
    """Ids given twice would make its token fit a partition that it never held."""
    ledger.seen()
    sleeper = ledger.claimed()
    ledger.purged()
    ledger.catalog.forget(SOURCE)
    ledger.seen(sighting("other", partition="2026-03-09T00"))
    ledger.claimed("2026-03-09T00")

    with pytest.raises(LostLease):
        ledger.commit(sleeper)
    assert not ledger.catalog.fail(sleeper, [])


@pytest.mark.case(24)
def test_repair_names_nothing_and_fetches_all_again(ledger: World) -> None:
    """Else readers would get errors for bytes that only a new fetch can bring back."""
    lost = ledger.ingested(sighting("f000"), sighting("f001"))
    held = ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile", lease=LEASE)
    assert held is not None

    requeued = ledger.catalog.repair(held)

    assert requeued == 2
    assert ledger.catalog.published(SOURCE, CYCLE) is None
    again = ledger.claimed()
    assert [(o.key, o.attempts) for o in again.objects] == [("f000", 1), ("f001", 1)]
    assert (again.snapshot, again.uri != lost.uri) == (None, True)


def test_repair_after_a_take_over_changes_nothing(ledger: World) -> None:
    """Else a repair and a commit in flight would cross: rows live, uri empty."""
    ledger.ingested(sighting("f000"))
    held = ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile", lease=LEASE)
    assert held is not None
    ledger.clock.advance(LEASE)
    ledger.ingested(sighting("f001"), snapshot="s2")

    with pytest.raises(LostLease):
        ledger.catalog.repair(held)

    assert ledger.live() == {"f000": "e1", "f001": "e1"}


def test_repair_fetches_the_newer_version_that_waits_already(ledger: World) -> None:
    """Else a slot would have two pending versions, and the repair would fail for ever."""
    ledger.ingested(sighting(etag="e1", minute=0))
    ledger.seen(sighting(etag="e2", minute=1))
    held = ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile", lease=LEASE)
    assert held is not None

    ledger.catalog.repair(held)

    assert ledger.states() == {("f000", "e1"): "superseded", ("f000", "e2"): "pending"}


def test_a_hold_that_finds_the_bytes_after_all_is_handed_back(ledger: World) -> None:
    """Look again under the lease: a commit may have landed between the listing and the hold."""
    ledger.ingested(sighting())
    held = ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile", lease=LEASE)
    assert held is not None

    assert ledger.catalog.fail(held, [])

    assert ledger.live() == {"f000": "e1"}
    assert ledger.catalog.hold(SOURCE, CYCLE, owner="other", lease=LEASE) is not None


def test_requeue_tries_the_newest_quarantined_version_again(ledger: World) -> None:
    """Else a person who repaired the decoder would have to wait for a new version of the file."""
    for minute, etag in enumerate(("e1", "e2")):
        ledger.seen(sighting(etag=etag, minute=minute))
        claim = ledger.claimed()
        ledger.catalog.fail(claim, [Failed(claim.objects[0], "no GRIB", permanent=True)])

    assert ledger.catalog.requeue(SOURCE, "another") == 0
    assert ledger.catalog.requeue(SOURCE) == 1

    assert ledger.states() == {("f000", "e1"): "quarantined", ("f000", "e2"): "pending"}
    assert ledger.claimed().objects[0].attempts == 1


def test_requeue_supersedes_an_older_version_that_waits(ledger: World) -> None:
    """Else a slot would have two pending versions after a repair."""
    ledger.ingested(sighting(etag="e1", minute=0))
    ledger.seen(sighting(etag="e2", minute=1))
    claim = ledger.claimed()
    ledger.catalog.fail(claim, [Failed(claim.objects[0], "no GRIB", permanent=True)])
    held = ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile", lease=LEASE)
    assert held is not None
    ledger.catalog.repair(held)

    assert ledger.catalog.requeue(SOURCE, CYCLE) == 1

    assert ledger.states() == {("f000", "e1"): "superseded", ("f000", "e2"): "pending"}


def test_the_overview_tells_what_a_person_asks_first(ledger: World) -> None:
    """Else `ingest status` would need five queries and a map of the tables."""
    ledger.seen(sighting("f000", minute=0), sighting("f001", minute=1), sighting("f002", minute=2))
    claim = ledger.claimed()
    good, slow, bad = claim.objects
    outcomes: list[Outcome] = [
        published(good),
        Postponed(slow, "503"),
        Failed(bad, "no GRIB", permanent=True),
    ]
    ledger.catalog.commit(claim, "s1", outcomes)

    seen = ledger.catalog.overview(SOURCE)

    assert seen.objects == {"ingested": 1, "pending": 1, "quarantined": 1}
    assert seen.partitions == {"open": 1}
    assert (seen.artifacts, seen.size_bytes, seen.horizon) == (1, 10, None)
    assert seen.newest_commit == ledger.clock.at
    assert [(o.key, o.error) for o in seen.quarantined] == [("f002", "no GRIB")]
    assert [(o.key, o.error, o.partition) for o in seen.waiting] == [("f001", "503", CYCLE)]

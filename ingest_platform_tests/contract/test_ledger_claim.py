"""claim, hold and heartbeat: one worker at a time, and no file that can stop its neighbours."""

from datetime import timedelta

import pytest

from ingest_platform.errors import LostLease
from ingest_platform_tests.contract.ledger_world import (
    CYCLE,
    LEASE,
    LONG_AFTER,
    LONGEST_BATCH,
    SOURCE,
    World,
    cycles,
    sighting,
)

MOMENT = timedelta(seconds=1)


def test_a_claim_takes_all_that_is_due_oldest_version_first(ledger: World) -> None:
    """Else the leads of a cycle would become visible out of order."""
    ledger.seen(sighting("f002", minute=2), sighting("f000", minute=0), sighting("f001", minute=1))

    claim = ledger.claimed()

    assert [o.key for o in claim.objects] == ["f000", "f001", "f002"]
    assert [o.attempts for o in claim.objects] == [1, 1, 1]


def test_a_limit_takes_the_oldest_and_leaves_the_rest_due(ledger: World) -> None:
    """A cycle of 209 files becomes visible in steps, not after the last."""
    ledger.seen(*(sighting(f"f{i:03d}", minute=i) for i in range(5)))

    first = ledger.claimed(limit=2)
    ledger.commit(first)
    second = ledger.claimed(limit=2)

    assert [o.key for o in first.objects] == ["f000", "f001"]
    assert [o.key for o in second.objects] == ["f002", "f003"]
    assert second.snapshot == "s1"


def test_a_held_partition_gives_no_second_claim_until_its_lease_expires(ledger: World) -> None:
    """Else two workers start from one base, and the second commit drops the first's grid."""
    ledger.seen(sighting("f000"))
    ledger.claimed(owner="a")
    ledger.seen(sighting("f001"))

    ledger.clock.advance(LEASE - MOMENT)
    early = ledger.claim(owner="b")
    ledger.clock.advance(MOMENT)
    late = ledger.claimed(owner="b")

    assert early is None
    assert [o.key for o in late.objects] == ["f000", "f001"]


def test_every_claim_has_a_greater_token(ledger: World) -> None:
    """The token is the only fence."""
    ledger.seen()
    first = ledger.claimed()
    ledger.clock.advance(LEASE)

    assert ledger.claimed().token > first.token


def test_a_new_uri_at_every_claim_until_something_is_published(ledger: World) -> None:
    """Else a kill inside `create` leaves half a repository that refuses every later attempt."""
    ledger.seen(sighting("f000"))
    first = ledger.claimed()
    ledger.clock.advance(LEASE)
    second = ledger.claimed()
    ledger.commit(second)
    ledger.seen(sighting("f001"))
    third = ledger.claimed()

    assert first.uri != second.uri
    assert (third.uri, third.snapshot) == (second.uri, "s1")


def test_a_uri_says_what_it_holds_and_stays_below_the_root(ledger: World) -> None:
    """Else a person could not find a partition in the store, or a key could climb out of it."""
    ledger.seen(sighting("f000", partition="../up/ä", event_end=ledger.clock.at))

    source, label, name = ledger.claimed("../up/ä").uri.split("/")

    assert (source, label) == (SOURCE, "--up--")
    assert len(name) == 24


def test_nothing_due_gives_no_claim_and_no_lease(ledger: World) -> None:
    """Else an empty run would keep others out for the length of a lease."""
    ledger.ingested(sighting("f000"))

    assert ledger.claim(owner="a") is None
    ledger.seen(sighting("f001"))
    assert ledger.claim(owner="b") is not None


def test_an_unknown_partition_gives_no_claim(ledger: World) -> None:
    """A run for a partition that was forgotten ends well."""
    assert ledger.claim("1999-01-01T00") is None


def test_on_its_last_attempt_a_row_is_taken_alone(ledger: World) -> None:
    """Else a file that kills the process would take its neighbours into quarantine with it."""
    ledger.seen(sighting("poison", minute=0), sighting("good", minute=1))
    for _ in range(2):
        assert len(ledger.claimed().objects) == 2
        ledger.clock.advance(LEASE)

    third, fourth = ledger.claimed(), None
    ledger.clock.advance(LEASE)
    fourth = ledger.claimed()
    ledger.commit(fourth)

    assert [o.key for o in third.objects] == ["poison"]
    assert [o.key for o in fourth.objects] == ["good"]
    assert ledger.states() == {("poison", "e1"): "quarantined", ("good", "e1"): "ingested"}


def test_rows_with_attempts_left_come_before_those_on_their_last(ledger: World) -> None:
    """Else one bad file would hold up a whole cycle."""
    ledger.seen(sighting("poison"))
    for _ in range(2):
        ledger.claimed()
        ledger.clock.advance(LEASE)
    ledger.seen(sighting("f001"), sighting("f002"))

    assert [o.key for o in ledger.claimed().objects] == ["f001", "f002"]


def test_a_row_whose_every_attempt_died_is_quarantined_with_a_reason(ledger: World) -> None:
    """Counted in fail, a file that kills the process would be tried for ever."""
    ledger.seen()
    for _ in range(3):
        ledger.claimed()
        ledger.clock.advance(LEASE)

    assert ledger.claim() is None

    row = ledger.only_object()
    assert row.state == "quarantined"
    assert row.error is not None
    assert "no outcome after 3 attempts" in row.error
    assert ledger.count("objects_quarantined_total") == 1


def test_a_heartbeat_keeps_the_lease(ledger: World) -> None:
    """Else a batch longer than a lease would be done twice."""
    ledger.seen(sighting("f000"))
    claim = ledger.claimed(owner="a")
    for _ in range(3):
        ledger.clock.advance(LEASE - MOMENT)
        ledger.catalog.heartbeat(claim, LEASE, LONGEST_BATCH)

    assert ledger.claim(owner="b") is None


def test_a_heartbeat_after_a_take_over_is_refused(ledger: World) -> None:
    """Else a worker that woke up would lengthen the lease of another."""
    ledger.seen()
    sleeper = ledger.claimed(owner="a")
    ledger.clock.advance(LEASE)
    ledger.claimed(owner="b")

    with pytest.raises(LostLease, match=f"partition {CYCLE}: expected token {sleeper.token}"):
        ledger.catalog.heartbeat(sleeper)


def test_a_batch_longer_than_the_longest_loses_its_heartbeat(ledger: World) -> None:
    """Else a worker that hangs while its heart beats would keep the partition for ever."""
    ledger.seen()
    hanging = ledger.claimed(owner="a")
    ledger.clock.advance(LONGEST_BATCH)

    with pytest.raises(LostLease):
        ledger.catalog.heartbeat(hanging, LEASE, LONGEST_BATCH)
    assert ledger.claim(owner="b") is not None


def test_a_heartbeat_after_the_own_commit_does_not_bring_the_lease_back(ledger: World) -> None:
    """Else a heartbeat under way during the commit would lock the partition for a lease."""
    claim = ledger.ingested(sighting("f000"))
    ledger.seen(sighting("f001"))

    with pytest.raises(LostLease):
        ledger.catalog.heartbeat(claim)
    assert ledger.claim(owner="b") is not None


def test_hold_takes_the_partition_but_none_of_its_rows(ledger: World) -> None:
    """Else a repair would burn an attempt of every row."""
    ledger.seen()

    held = ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile", lease=LEASE)

    assert held is not None
    assert held.objects == ()
    assert ledger.claim() is None
    assert ledger.only_object().attempts == 0


def test_hold_gives_way_to_a_live_lease_and_to_purge(ledger: World) -> None:
    """Else a repair and a commit in flight would cross."""
    ledger.seen()
    ledger.claimed()

    assert ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile") is None
    ledger.purged()
    assert ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile") is None
    assert ledger.catalog.hold(SOURCE, cycles(2)[1], owner="reconcile") is None


def test_a_clock_set_back_delays_work_but_loses_none(ledger: World) -> None:
    """A wrong clock may cost time, never data."""
    ledger.seen()
    sleeper = ledger.claimed(owner="a")

    ledger.clock.advance(-LONG_AFTER)
    assert ledger.claim(owner="b") is None
    ledger.clock.advance(2 * LONG_AFTER)
    ledger.commit(ledger.claimed(owner="b"), "of b")

    with pytest.raises(LostLease):
        ledger.commit(sleeper, "of a")
    published = ledger.catalog.published(SOURCE, CYCLE)
    assert published is not None
    assert published.snapshot == "of b"

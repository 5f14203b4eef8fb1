"""The shortest traces by which the protocol breaks when one of its rules is off, replayed on the ledger.

The store is played by a name: what a snapshot would hold is told by the test.
"""

import pytest

from ingest_platform.catalog.model import Published
from ingest_platform.errors import LostLease
from ingest_platform_tests.contract.ledger_world import (
    CYCLE,
    LEASE,
    SOURCE,
    World,
    cycles,
    end_of,
    published,
    sighting,
)
from ingest_platform_tests.contract.test_ledger_purge import MOMENT, expire


def test_readers_pinned(ledger: World) -> None:
    """A commits e2 in the store; before the ledger commit, readers must not get e2 under rows of e1."""
    ledger.ingested(sighting(etag="e1", minute=0), snapshot="s1")
    ledger.seen(sighting(etag="e2", minute=1))

    ledger.claimed()  # writes s2 to the store, and is still to tell the ledger

    snapshot = ledger.catalog.published(SOURCE, CYCLE)
    assert snapshot is not None
    assert snapshot.snapshot == "s1"
    assert ledger.live() == {"f000": "e1"}


def test_base_from_the_ledger(ledger: World) -> None:
    """The store commit of e2 lands and its worker fails: the next batch must not build on it."""
    ledger.ingested(sighting(etag="e1", minute=0), snapshot="s1")
    ledger.seen(sighting(etag="e2", minute=1))
    claim = ledger.claimed()
    ledger.catalog.fail(claim, [published(o) for o in claim.objects])  # s2 is in the store, unnamed
    ledger.seen(sighting("f001"))

    assert ledger.claimed().snapshot == "s1"


def test_lease_on_the_partition(ledger: World) -> None:
    """With two keys of it in two hands, the second ledger commit would drop the first's grid."""
    ledger.seen(sighting("f000"))
    first = ledger.claimed(owner="a")
    ledger.seen(sighting("f001"))

    assert ledger.claim(owner="b") is None
    ledger.commit(first, "s1")
    second = ledger.claimed(owner="b")

    assert second.snapshot == "s1"
    ledger.commit(second, "s2")
    assert ledger.live() == {"f000": "e1", "f001": "e1"}


def test_token_bumped_at_take_over(ledger: World) -> None:
    """A pauses before its ledger commit, B takes over: of the two commits one must be refused."""
    ledger.seen()
    paused = ledger.claimed(owner="a")
    ledger.clock.advance(LEASE)
    ledger.commit(ledger.claimed(owner="b"), "of b")

    with pytest.raises(LostLease):
        ledger.commit(paused, "of a")
    assert ledger.count("files_ingested_total") == 1


def test_a_uri_that_reconcile_may_delete_is_never_committed(ledger: World) -> None:
    """Reconcile deletes the uri of a dead worker: that worker, if it wakes, must not commit it."""
    ledger.seen()
    paused = ledger.claimed(owner="a")
    ledger.clock.advance(LEASE)
    ledger.claimed(owner="b")
    wanted = {p.uri for p in ledger.catalog.partitions() if p.state != "purged"}

    assert paused.uri not in wanted
    with pytest.raises(LostLease):
        ledger.commit(paused)


def test_the_uri_of_a_live_worker_is_wanted(ledger: World) -> None:
    """Reconcile lists the store and then reads the ledger: a repository being born is in it."""
    ledger.seen()
    claim = ledger.claimed()

    assert claim.uri in {p.uri for p in ledger.catalog.partitions() if p.state != "purged"}


def test_order(ledger: World) -> None:
    """b is in flight while the source returns to a: a newer version must not be replaced by an older one."""
    ledger.ingested(sighting(etag="a", minute=0), snapshot="s1")
    ledger.seen(sighting(etag="b", minute=1))
    in_flight = ledger.claimed()
    ledger.seen(sighting(etag="a", minute=2))

    ledger.catalog.fail(in_flight, [published(o) for o in in_flight.objects])

    assert ledger.live() == {"f000": "a"}
    assert not ledger.catalog.has_due(SOURCE, CYCLE)


def test_tombstone(ledger: World) -> None:
    """A purged partition must not come back by a new etag or a lead never seen before."""
    ledger.ingested(sighting("f000", "e1"))
    ledger.purged()

    assert ledger.seen(sighting("f000", "e2", minute=9), sighting("f048", minute=9)) == 0


def test_horizon(ledger: World) -> None:
    """Forgotten by a time window that was lengthened later, it would be ingested again."""
    ledger.ingested(sighting("f000"))
    ledger.purged()
    ledger.catalog.forget(SOURCE)

    assert ledger.seen(sighting("f000")) == 0


def test_partition_state(ledger: World) -> None:
    """Purge marks, a late lead commits: its bytes must not be deleted under a live row."""
    ledger.seen(sighting("f000"))
    late = ledger.claimed()
    ledger.clock.advance(LEASE)
    (purge,) = expire(ledger, cutoff=end_of(CYCLE) + MOMENT)

    with pytest.raises(LostLease):
        ledger.commit(late)
    assert ledger.seen(sighting("f001")) == 0
    ledger.catalog.erase(purge)
    assert ledger.catalog.objects(SOURCE, CYCLE) == ()


def test_erase_with_token(ledger: World) -> None:
    """A second purge and a backfill pass the first purge by: it must not wipe the new rows."""
    ledger.ingested(sighting(), snapshot="s1")
    (first,) = expire(ledger, cutoff=end_of(CYCLE) + MOMENT)
    ledger.clock.advance(LEASE)
    (second,) = expire(ledger, cutoff=end_of(CYCLE) + MOMENT)
    ledger.catalog.erase(second)
    ledger.catalog.admit(SOURCE, CYCLE, end_of(CYCLE))
    backfilled = ledger.ingested(sighting(), snapshot="s2")

    with pytest.raises(LostLease):
        ledger.catalog.erase(first)

    assert ledger.live() == {"f000": "e1"}
    assert first.uri != backfilled.uri


def test_delete_nothing(ledger: World) -> None:
    """The ledger commit lands, its answer is lost: fail finds nothing to do, and readers keep their bytes."""
    ledger.seen()
    claim = ledger.claimed()
    ledger.commit(claim, "s1")  # and the worker is told of a broken connection

    still_ours = ledger.catalog.fail(claim, [published(o) for o in claim.objects])

    assert not still_ours
    assert ledger.live() == {"f000": "e1"}
    assert ledger.claim() is None


def test_repair_under_the_lease(ledger: World) -> None:
    """A repair and a commit in flight must not cross: rows live, uri empty."""
    ledger.ingested(sighting("f000"))
    ledger.seen(sighting("f001"))
    in_flight = ledger.claimed(owner="worker")

    refused = ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile", lease=LEASE)
    ledger.clock.advance(LEASE)
    held = ledger.catalog.hold(SOURCE, CYCLE, owner="reconcile", lease=LEASE)
    assert held is not None
    ledger.catalog.repair(held)

    assert refused is None
    with pytest.raises(LostLease):
        ledger.commit(in_flight, "s2")
    assert ledger.live() == {}


def test_run_key_by_request(ledger: World) -> None:
    """A run that dies before its claim leaves its key used: the next request must have another."""
    ledger.seen()
    keys = []
    for _ in range(3):
        keys += [r.run_key for r in ledger.catalog.request(SOURCE)]
        ledger.clock.advance(LEASE * 10)

    assert len(set(keys)) == 3
    assert all(key.startswith(f"{CYCLE}:") for key in keys)


def test_attempts_at_claim_then_alone(ledger: World) -> None:
    """A file that kills the process must end in quarantine, its neighbours must not."""
    ledger.seen(sighting("f000", minute=0), sighting("poison", minute=1), sighting("f002", minute=2))
    for _ in range(10):
        claim = ledger.claim()
        if claim is not None and "poison" not in [o.key for o in claim.objects]:
            ledger.commit(claim)
        ledger.clock.advance(LEASE)

    assert ledger.states() == {
        ("f000", "e1"): "ingested",
        ("poison", "e1"): "quarantined",
        ("f002", "e1"): "ingested",
    }


def test_keep_latest(ledger: World) -> None:
    """An empty newest partition must not be kept in place of the last good one."""
    good, empty = cycles(2)
    ledger.ingested(sighting("a", partition=good), partition=good)
    ledger.seen(sighting("b", partition=empty))

    taken = expire(ledger, cutoff=end_of(empty) + MOMENT, keep_latest=1)

    assert [p.partition for p in taken] == [empty]


def test_whole_version(ledger: World) -> None:
    """A damaged message of e2 must not leave e1's row beside e2's."""
    ledger.seen(sighting(etag="e1", minute=0))
    first = ledger.claimed()
    ledger.catalog.commit(first, "s1", [published(first.objects[0])])
    ledger.seen(sighting(etag="e2", minute=1))
    second = ledger.claimed()

    ledger.catalog.commit(second, "s2", [Published(second.objects[0], (), "its one message is damaged")])

    assert ledger.live() == {}
    assert ledger.states() == {("f000", "e1"): "superseded", ("f000", "e2"): "partial"}

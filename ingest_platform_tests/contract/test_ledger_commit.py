"""commit and fail: the switch, all or nothing."""

from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from ingest_platform.catalog.claim import MAX_ATTEMPTS
from ingest_platform.catalog.commit import (
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    LONGEST_RETRY_AFTER,
)
from ingest_platform.catalog.model import Artifact, Failed, Outcome, Postponed, Published
from ingest_platform.errors import LostLease, Stale
from ingest_platform_tests.contract.ledger_world import (
    CYCLE,
    LEASE,
    LONG_AFTER,
    SOURCE,
    World,
    cycles,
    grid,
    grid_details,
    published,
    sighting,
)


def test_what_is_committed_is_what_readers_get(ledger: World) -> None:
    """The point of it all: pair, artifacts and typed columns in one answer."""
    claim = ledger.ingested(sighting("f000"), sighting("f001"), snapshot="s1")

    snapshot = ledger.catalog.published(SOURCE, CYCLE)

    assert snapshot is not None
    assert (snapshot.partition, snapshot.uri, snapshot.snapshot) == (CYCLE, claim.uri, "s1")
    first, second = snapshot.artifacts
    assert (first["name"], second["name"]) == ("f000", "f001")
    assert first["checksum"] == "e1"
    assert {name: first[name] for name in grid_details("f000")} == grid_details("f000")


def test_a_commit_hands_the_lease_back(ledger: World) -> None:
    """Else the next lead would wait for the lease to expire."""
    ledger.ingested(sighting("f000"))
    ledger.seen(sighting("f001"))

    assert ledger.claim(owner="b") is not None


def test_a_newer_version_replaces_all_artifacts_of_its_slot(ledger: World) -> None:
    """Else a grid that only the old version had would stay, of another forecast than its neighbours."""
    ledger.seen(sighting(etag="e1", minute=0), sighting("f001"))
    claim = ledger.claimed()
    old, other = claim.objects
    outcomes = [Published(old, (grid("t"), grid("u"))), Published(other, (grid("t1"),))]
    ledger.catalog.commit(claim, "s1", outcomes)

    ledger.seen(sighting(etag="e2", minute=1))
    claim = ledger.claimed()
    ledger.catalog.commit(claim, "s2", [Published(claim.objects[0], (grid("t"),))])

    assert ledger.live() == {"t": "e2", "t1": "e1"}
    assert ledger.states()["f000", "e1"] == "superseded"
    assert ledger.states()["f000", "e2"] == "ingested"


def test_with_an_error_the_published_part_is_partial(ledger: World) -> None:
    """Else nobody would learn that a message of the file was damaged."""
    ledger.seen()
    claim = ledger.claimed()

    ledger.catalog.commit(claim, "s1", [published(claim.objects[0], error="message 2 is damaged")])

    row = ledger.only_object()
    assert (row.state, row.error) == ("partial", "message 2 is damaged")
    assert ledger.live() == {"f000": "e1"}


def test_a_commit_after_a_take_over_changes_nothing(ledger: World) -> None:
    """Else the grid of a newer batch would be replaced by an older one."""
    ledger.seen()
    sleeper = ledger.claimed(owner="a")
    ledger.clock.advance(LEASE)
    ledger.claimed(owner="b")

    with pytest.raises(LostLease, match="changed nothing"):
        ledger.commit(sleeper)

    assert ledger.catalog.published(SOURCE, CYCLE) is None
    assert ledger.states() == {("f000", "e1"): "pending"}


def test_a_lease_that_expired_but_was_not_taken_may_still_commit(ledger: World) -> None:
    """Safety uses no clock: the work of a slow worker that nobody relieved is good."""
    ledger.seen()
    slow = ledger.claimed()
    ledger.clock.advance(LONG_AFTER)

    ledger.commit(slow)

    assert ledger.live() == {"f000": "e1"}


def test_a_second_commit_of_one_claim_is_refused(ledger: World) -> None:
    """Else a retry after a lost answer would count every file twice."""
    claim = ledger.ingested(sighting())

    with pytest.raises(LostLease):
        ledger.commit(claim, "s1")

    assert ledger.count("files_ingested_total") == 1


def test_a_version_that_a_live_newer_one_outdates_is_stale(ledger: World) -> None:
    """Else a newer version would be replaced by an older one (a live A came back while B was in flight)."""
    ledger.ingested(sighting(etag="a", minute=0), snapshot="s1")
    ledger.seen(sighting(etag="b", minute=1))
    in_flight = ledger.claimed()
    ledger.seen(sighting(etag="a", minute=2))

    with pytest.raises(Stale, match=r"noaa/f000 \(b\): version of 2026-03-01 00:02:00 UTC is published"):
        ledger.commit(in_flight, "s2")

    assert ledger.live() == {"f000": "a"}


def test_one_stale_object_refuses_the_whole_batch(ledger: World) -> None:
    """The snapshot holds the whole batch: skipping one object's rows would not take its bytes out."""
    ledger.ingested(sighting(etag="a", minute=0), snapshot="s1")
    ledger.seen(sighting(etag="b", minute=1), sighting("f001", minute=1))
    in_flight = ledger.claimed()
    ledger.seen(sighting(etag="a", minute=2))

    with pytest.raises(Stale):
        ledger.commit(in_flight, "s2")

    assert ledger.states()["f001", "e1"] == "pending"
    assert ledger.count("files_ingested_total") == 1


def test_a_version_superseded_in_flight_is_published_until_the_newer_one_is(ledger: World) -> None:
    """Else a source that republishes faster than we fetch would never be visible."""
    ledger.seen(sighting(etag="e1", minute=0))
    in_flight = ledger.claimed()
    ledger.seen(sighting(etag="e2", minute=1))

    ledger.commit(in_flight, "s1")
    before = ledger.live()
    ledger.commit(ledger.claimed(), "s2")

    assert before == {"f000": "e1"}
    assert ledger.live() == {"f000": "e2"}
    assert ledger.states() == {("f000", "e1"): "superseded", ("f000", "e2"): "ingested"}


def test_an_artifact_name_given_twice_fails_the_whole_commit(ledger: World) -> None:
    """Else one of two grids under one name would be lost in silence."""
    ledger.seen(sighting("f000"), sighting("f001"))
    claim = ledger.claimed()

    with pytest.raises(IntegrityError):
        ledger.catalog.commit(claim, "s1", [Published(o, (grid("same"),)) for o in claim.objects])

    assert ledger.catalog.published(SOURCE, CYCLE) is None
    assert set(ledger.states().values()) == {"pending"}


def test_an_outcome_for_an_object_not_claimed_is_refused(ledger: World) -> None:
    """Else a mix-up of batches would settle rows that another worker holds."""
    other_cycle = cycles(2)[1]
    ledger.seen(sighting("f000"), sighting("f006", partition=other_cycle))
    claim = ledger.claimed()
    stranger = Failed(ledger.claimed(other_cycle).objects[0], "404")

    with pytest.raises(ValueError, match="Nothing was written"):
        ledger.catalog.commit(claim, "s1", [stranger])
    with pytest.raises(ValueError, match="Nothing was written"):
        ledger.catalog.fail(claim, [published(claim.objects[0]), published(claim.objects[0])])


def test_a_postponed_object_gets_its_attempt_back_however_long_it_takes(ledger: World) -> None:
    """Else an outage at the source would put everything into quarantine."""
    ledger.seen()
    for _ in range(3 * MAX_ATTEMPTS):
        claim = ledger.claimed()
        ledger.catalog.fail(claim, [Postponed(claim.objects[0], "503")])
        ledger.clock.advance(LONG_AFTER)

    row = ledger.only_object()
    assert (row.state, row.attempts, row.error) == ("pending", 0, "503")
    assert ledger.count("objects_postponed_total") == 3 * MAX_ATTEMPTS


def test_the_wait_of_a_postponed_object_doubles_up_to_its_cap(ledger: World) -> None:
    """Else an outage would be met with a storm of requests, or its end noticed hours late."""
    ledger.seen()
    waits = []
    for _ in range(8):
        claim = ledger.claimed()
        ledger.catalog.fail(claim, [Postponed(claim.objects[0], "503")])
        next_attempt = ledger.only_object().next_attempt_at
        assert next_attempt is not None
        waits.append(next_attempt - ledger.clock.at)
        ledger.clock.at = next_attempt

    assert waits[:3] == [FIRST_BACKOFF, 2 * FIRST_BACKOFF, 4 * FIRST_BACKOFF]
    assert waits[-1] == LONGEST_BACKOFF


@pytest.mark.case(18)
@pytest.mark.parametrize(
    ("wish", "wait"),
    [
        (timedelta(hours=2), timedelta(hours=2)),
        (timedelta(seconds=1), FIRST_BACKOFF),
        (timedelta(days=3650), LONGEST_RETRY_AFTER),
    ],
)
def test_the_sources_own_wish_is_honoured(ledger: World, wish: timedelta, wait: timedelta) -> None:
    """Else we would be throttled harder; and a broken header must not park an object for ever."""
    ledger.seen()
    claim = ledger.claimed()

    ledger.catalog.fail(claim, [Postponed(claim.objects[0], "429", retry_after=wish)])

    assert ledger.only_object().next_attempt_at == ledger.clock.at + wait


def test_an_objects_own_failures_end_in_quarantine(ledger: World) -> None:
    """Else a damaged file would be fetched for ever; before that it has its chances."""
    ledger.seen()
    states = []
    for _ in range(MAX_ATTEMPTS):
        claim = ledger.claimed()
        ledger.catalog.fail(claim, [Failed(claim.objects[0], "404")])
        states.append(ledger.only_object().state)
        ledger.clock.advance(LONG_AFTER)

    assert states == ["pending", "pending", "quarantined"]
    assert ledger.claim() is None


@pytest.mark.case(14)
def test_a_quarantined_version_leaves_the_older_one_live(ledger: World) -> None:
    """Else a damaged update would take the good forecast away."""
    ledger.ingested(sighting(etag="e1", minute=0), snapshot="s1")
    ledger.seen(sighting(etag="e2", minute=1))
    claim = ledger.claimed()

    ledger.catalog.commit(claim, "s2", [Failed(claim.objects[0], "no GRIB", permanent=True)])

    assert ledger.live() == {"f000": "e1"}
    assert ledger.states() == {("f000", "e1"): "ingested", ("f000", "e2"): "quarantined"}


def test_failed_and_published_objects_settle_in_one_commit(ledger: World) -> None:
    """Else one bad file would hold back its cycle."""
    ledger.seen(sighting("f000", minute=0), sighting("f001", minute=1), sighting("f002", minute=2))
    claim = ledger.claimed()
    good, late, bad = claim.objects

    outcomes: list[Outcome] = [published(good), Postponed(late, "incomplete"), Failed(bad, "damaged")]
    ledger.catalog.commit(claim, "s1", outcomes)

    assert ledger.live() == {"f000": "e1"}
    assert [(o.key, o.state, o.attempts) for o in ledger.catalog.objects(SOURCE, CYCLE)] == [
        ("f000", "ingested", 1),
        ("f001", "pending", 0),
        ("f002", "pending", 1),
    ]


def test_fail_hands_the_lease_back_and_names_no_snapshot(ledger: World) -> None:
    """Else a failed batch would block its partition for a lease."""
    ledger.seen(sighting("f000"), sighting("f001"))
    claim = ledger.claimed()

    still_ours = ledger.catalog.fail(claim, [published(o) for o in claim.objects])

    assert still_ours
    assert ledger.catalog.published(SOURCE, CYCLE) is None
    assert [o.attempts for o in ledger.catalog.objects(SOURCE, CYCLE)] == [0, 0]
    ledger.clock.advance(FIRST_BACKOFF)
    assert len(ledger.claimed(owner="b").objects) == 2


def test_fail_after_a_take_over_touches_nothing(ledger: World) -> None:
    """Else a late worker would end another's attempt."""
    ledger.seen()
    sleeper = ledger.claimed(owner="a")
    ledger.clock.advance(LEASE)
    ledger.claimed(owner="b")

    assert not ledger.catalog.fail(sleeper, [Failed(sleeper.objects[0], "late", permanent=True)])

    assert ledger.states() == {("f000", "e1"): "pending"}
    assert ledger.claim(owner="c") is None


def test_fail_leaves_a_row_superseded_that_a_newer_version_superseded(ledger: World) -> None:
    """Else a slot would have two pending versions."""
    ledger.seen(sighting(etag="e1", minute=0))
    claim = ledger.claimed()
    ledger.seen(sighting(etag="e2", minute=1))

    ledger.catalog.fail(claim, [Postponed(claim.objects[0], "412: changed")])

    assert ledger.states() == {("f000", "e1"): "superseded", ("f000", "e2"): "pending"}


@pytest.mark.case(35)
def test_counters_move_with_the_commit_and_only_with_it(ledger: World) -> None:
    """Else a graph would show files that were never published."""
    labels = (("model", "gfs"), ("bucket", "noaa"))
    ledger.seen(sighting("f000"))
    claim = ledger.claimed()
    outcomes = [published(claim.objects[0])]
    ledger.catalog.commit(claim, "s1", outcomes, counters={("source_bytes_total", labels): 7})

    with pytest.raises(LostLease):
        ledger.catalog.commit(claim, "s1", outcomes, counters={("source_bytes_total", labels): 7})
    ledger.catalog.add({("source_bytes_total", frozenset(labels)): 1})

    (bytes_read,) = (c for c in ledger.catalog.counts() if c.name == "source_bytes_total")
    assert (bytes_read.value, bytes_read.labels) == (8, {"model": "gfs", "bucket": "noaa"})
    assert ledger.count("files_ingested_total") == 1
    assert ledger.count("bytes_published_total") == 10
    with pytest.raises(ValueError, match="only grow"):
        ledger.catalog.add({("source_bytes_total", labels): -1})


def test_details_without_a_table_to_take_them_are_refused(ledger: World) -> None:
    """Else what readers ask for would vanish without a word."""
    ledger.catalog.see("audio", [sighting()])
    claim = ledger.catalog.claim("audio", CYCLE, owner="a")
    assert claim is not None

    with pytest.raises(ValueError, match="no typed table"):
        ledger.catalog.commit(claim, "s1", [published(claim.objects[0])])

    plain = Artifact("f000", 1, "sum", "1")
    ledger.catalog.commit(claim, "s1", [Published(claim.objects[0], (plain,))])
    snapshot = ledger.catalog.published("audio", CYCLE)
    assert snapshot is not None
    assert snapshot.artifacts[0]["name"] == "f000"

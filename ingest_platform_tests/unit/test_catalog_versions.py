"""Which version of a slot is to be fetched, without a database."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.catalog.model import Sighting
from ingest_platform.catalog.versions import Slot, Version

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# Any sequence of sightings of four versions at six moments: also two versions at one moment.
sightings = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), min_size=1, max_size=12)


def see_all(seen: list[tuple[str, int]], slot: Slot, known: dict[str, Version]) -> None:
    for order, (etag, minute) in enumerate(seen):
        time = NOON + timedelta(minutes=minute)
        if etag in known:
            slot.see_again(known[etag], time)
        else:
            sighting = Sighting("noaa", "f000", etag, 1, time, "cycle", NOON, "f000")
            known[etag] = slot.see_first(sighting, order)


@given(sightings)
def test_exactly_the_newest_version_waits(seen: list[tuple[str, int]]) -> None:
    """Else an older version would be fetched, two at once, or none."""
    slot, known = Slot(1), dict[str, Version]()

    see_all(seen, slot, known)

    newest = max(slot.versions, key=lambda v: v.rank)
    assert [v for v in slot.versions if v.state == "pending"] == [newest]
    assert all(v.state == "superseded" for v in slot.versions if v is not newest)


@given(sightings)
def test_seeing_a_listing_twice_changes_nothing_the_second_time(seen: list[tuple[str, int]]) -> None:
    """Else every poll would write to the ledger."""
    slot, known = Slot(1), dict[str, Version]()
    see_all(seen, slot, known)
    for version in slot.versions:
        version.changed = False

    see_all(seen, slot, known)

    assert not any(version.changed for version in slot.versions)


@given(sightings, st.integers(0, 5))
def test_nothing_waits_that_is_older_than_what_is_live(seen: list[tuple[str, int]], minute: int) -> None:
    """Else a worker would fetch what the commit must refuse as stale."""
    live = Version(1, NOON + timedelta(minutes=minute), "ingested")
    slot, known = Slot(1, [live]), {"a": live}

    see_all(seen, slot, known)

    assert live.state == "ingested"
    assert all(v.rank > live.rank for v in slot.versions if v.state == "pending")


@given(st.permutations(["a", "b", "c"]))
def test_a_quarantined_version_waits_again_only_as_the_newest(order: list[str]) -> None:
    """Else a damaged file would be tried at every poll."""
    times = {"a": 0, "b": 1, "c": 2}
    quarantined = Version(1, NOON, "quarantined")
    slot, known = Slot(1, [quarantined]), {"a": quarantined}

    see_all([(etag, times[etag]) for etag in order], slot, known)
    before = quarantined.state
    see_all([("a", 9)], slot, known)

    assert before == "quarantined"
    assert quarantined.state == "pending"
    assert quarantined.revived

"""What an ingest did, as amounts for the ledger's counters."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.catalog.counters import Increments
from ingest_platform.catalog.model import Artifact, Failed, Outcome, Postponed, Published, SourceObject
from ingest_platform.weather import tally
from ingest_platform.weather.model import Rejected
from ingest_platform_tests.status_world import NOW, models

MRMS = models()["mrms"]


def held(age_seconds: float = 10) -> SourceObject:
    return SourceObject(1, "b", "k", "e", 10, NOW - timedelta(seconds=age_seconds), "s", 1)


def good(age_seconds: float = 10, error: str | None = None) -> Published:
    return Published(held(age_seconds), (Artifact("a", 1, "c", "1"),), error)


def amount(moved: Increments, name: str, **labels: str) -> float:
    """The counters of this name that carry these labels, added up."""
    return sum(
        value
        for (counter, of), value in moved.items()
        if counter == name and labels.items() <= dict(of).items()
    )


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([good(), good()], "success"),
        ([good(), good(error="1 of 2 messages rejected")], "partial"),
        ([good(), Failed(held(), "damaged")], "partial"),
        ([good(), Postponed(held(), "later")], "partial"),
    ],
)
def test_a_commit_is_a_success_only_if_every_object_is_whole(outcomes: list[Outcome], status: str) -> None:
    """Else a platform that drops half of its objects looks healthy."""
    moved = tally.committed(MRMS, outcomes, (), seconds=1, now=NOW)

    assert amount(moved, tally.RUNS, source="weather.mrms", status=status) == 1
    assert amount(moved, tally.RUNS) == 1


@pytest.mark.parametrize(
    ("outcomes", "broken", "status"),
    [
        ([Postponed(held(), "the source is still writing")], False, "postponed"),
        ([Postponed(held(), "x"), Failed(held(), "damaged")], False, "failure"),
        ([Postponed(held(), "our store is away")], True, "failure"),
    ],
)
def test_waiting_for_the_source_is_no_failure(outcomes: list[Outcome], broken: bool, status: str) -> None:
    """Else every GFS cycle that is still being uploaded raises the alarm."""
    moved = tally.handed_back(MRMS, outcomes, (), seconds=1, broken=broken)

    assert amount(moved, tally.RUNS, status=status) == amount(moved, tally.RUNS) == 1
    assert amount(moved, "publish_to_visible_seconds_bucket") == 0


@given(st.lists(st.floats(0, 80_000), max_size=20))
def test_each_published_object_falls_into_the_bucket_next_above_it(ages: list[float]) -> None:
    """Else the percentiles that people plan by are wrong."""
    moved = tally.committed(MRMS, [good(age) for age in ages], (), seconds=0.7, now=NOW)

    assert amount(moved, f"{tally.VISIBLE}_bucket") == len(ages)
    assert amount(moved, f"{tally.VISIBLE}_sum") == pytest.approx(sum(ages), abs=1e-3)
    for bound in tally.VISIBLE_BOUNDS:
        up_to = sum(
            amount(moved, f"{tally.VISIBLE}_bucket", le=f"{b:g}") for b in tally.VISIBLE_BOUNDS if b <= bound
        )
        # Microseconds: a version time carries no finer.
        assert up_to == sum(round(age, 6) <= bound for age in ages)


def test_what_only_a_backfill_brings_is_nobodys_latency() -> None:
    """Else one backfill of last month ruins the percentiles of a day."""
    kept = MRMS.retention_hours * 3600

    moved = tally.committed(MRMS, [good(kept + 1), good(kept - 1)], (), seconds=1, now=NOW)

    assert amount(moved, f"{tally.VISIBLE}_bucket") == 1


def test_an_upload_from_the_future_was_visible_at_once() -> None:
    """Clocks differ by minutes, and a counter that is asked to shrink refuses the whole commit."""
    moved = tally.committed(MRMS, [good(-300)], (), seconds=1, now=NOW)

    assert amount(moved, f"{tally.VISIBLE}_bucket", le="1") == 1
    assert amount(moved, f"{tally.VISIBLE}_sum") == 0


def test_rejected_messages_are_counted_by_reason() -> None:
    """Else nobody sees that the source changed its tables."""
    rejected = [Rejected("1", "x", "decode"), Rejected("2", "y", "identity"), Rejected("3", "z", "decode")]

    moved = tally.committed(MRMS, [good()], rejected, seconds=1, now=NOW)

    assert amount(moved, tally.REJECTS, reason="decode") == 2
    assert amount(moved, tally.REJECTS, reason="identity") == 1

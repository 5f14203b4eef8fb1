"""Objects that come late, out of order, twice, or while our clock is wrong: each is seen, once."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_platform.weather.discover import Cursor, sightings
from ingest_platform_tests.unit.weather_source import (
    HOUR,
    MODELS,
    NOW,
    Item,
    Ledger,
    Source,
    gfs,
    hrrr,
    radar,
    scan,
    tick,
)


@pytest.mark.case(5)
def test_a_last_lead_that_comes_after_the_next_cycle_is_seen_by_the_next_poll() -> None:
    """Else HRRR's f18, which takes 90 minutes, is lost every hour."""
    five, six = (NOW.replace(hour=h, minute=0) for h in (5, 6))
    late = hrrr(five, 18, timedelta(minutes=90))
    source, ledger = Source([hrrr(five, 17, HOUR), hrrr(six, 0, timedelta(minutes=20)), late]), Ledger()
    source.at = before = six + timedelta(minutes=25)
    first = tick(MODELS["hrrr"], source, ledger, now=before)
    assert late.key not in ledger.keys

    source.at = after = late.last_modified + timedelta(minutes=1)
    second = tick(MODELS["hrrr"], source, ledger, first.cursor, now=after)

    assert [s.key for s in ledger.new[-second.seen :]] == [late.key]


@pytest.mark.case(6)
@settings(max_examples=50, deadline=None)
@given(
    minutes=st.lists(st.integers(0, 240), unique=True, max_size=30),
    data=st.data(),
    skew=st.timedeltas(timedelta(minutes=-5), timedelta(minutes=5)),
    step=st.sampled_from([2, 7, 30, 61]),
)
@pytest.mark.case(36)
def test_whatever_the_order_of_publication_and_the_clock_each_object_is_seen_once(
    minutes: list[int], data: st.DataObject, skew: timedelta, step: int
) -> None:
    """Else an object that comes after its successor, or before our clock's now, is lost."""
    begin = datetime(2026, 12, 31, 21, tzinfo=UTC)  # over midnight and New Year
    items = [
        radar(
            begin + timedelta(minutes=m, seconds=m % 60),
            data.draw(st.timedeltas(timedelta(0), timedelta(minutes=300))),
        )
        for m in minutes
    ]
    source, ledger, cursor = Source(items), Ledger(), Cursor()

    end = begin + 10 * HOUR
    while source.at != end:
        source.at = begin if not cursor.listed_at else min(end, source.at + timedelta(minutes=step))
        cursor = tick(MODELS["mrms"], source, ledger, cursor, now=source.at + skew).cursor

    assert ledger.keys == {item.key for item in items}
    assert len(ledger.new) == len(items)


@pytest.mark.case(36)
@pytest.mark.parametrize("skew_minutes", [-5, 5])
def test_the_newest_scan_is_seen_though_our_clock_is_minutes_behind_or_ahead(skew_minutes: int) -> None:
    """Else the newest picture waits until our clock agrees."""
    just_made = scan(
        datetime(2027, 1, 1, 0, 1, 17, tzinfo=UTC), created=datetime(2027, 1, 1, 0, 3, tzinfo=UTC)
    )
    source, ledger = Source([just_made], at=just_made.last_modified), Ledger()
    now = just_made.last_modified + timedelta(minutes=skew_minutes)

    tick(MODELS["goes_east"], source, ledger, Cursor(full_pass_at=now), now=now)

    assert ledger.keys == {just_made.key}


@pytest.mark.case(12)
def test_a_gap_heals_twenty_hours_later_by_the_hourly_pass() -> None:
    """Else a lead that the source forgot stays missing though it was published in the end."""
    cycle = (NOW - timedelta(days=2)).replace(hour=0, minute=0)
    late = gfs(cycle, 7, after=20 * HOUR + 2 * 24 * HOUR)
    items = [gfs(cycle, lead) for lead in range(13) if lead != 7] + [late]
    source, ledger = Source(items, at=NOW), Ledger()
    first = tick(MODELS["gfs"], source, ledger)
    assert late.key not in ledger.keys

    source.at = later = late.last_modified
    tick(MODELS["gfs"], source, ledger, first.cursor, now=later)

    assert late.key in ledger.keys


def test_after_an_outage_of_the_source_its_backlog_is_seen_at_once() -> None:
    """Else ten hours of radar that come together wait for the hourly pass."""
    before = radar(NOW - 12 * HOUR)
    backlog = [radar(NOW - timedelta(minutes=m), timedelta(minutes=m)) for m in range(2, 700, 2)]
    source, ledger = Source([before, *backlog]), Ledger()
    source.at = NOW - timedelta(minutes=2)
    first = tick(MODELS["mrms"], source, ledger, now=source.at)

    source.at = NOW
    second = tick(MODELS["mrms"], source, ledger, first.cursor)

    assert second.seen == len(backlog)


@pytest.mark.case(10)
def test_a_republished_object_is_seen_as_a_newer_version_of_its_slot() -> None:
    """Else a corrected forecast never replaces the wrong one."""
    cycle = NOW.replace(hour=0, minute=0)
    old = gfs(cycle, 7)
    new = Item(old.key, old.last_modified + 2 * HOUR, etag='"e2"')
    ledger = Ledger()
    first = tick(MODELS["gfs"], Source([old]), ledger)

    tick(MODELS["gfs"], Source([new]), ledger, first.cursor, now=NOW + HOUR / 2)

    was, now = ledger.new
    assert was.slot == now.slot
    assert was.version_time < now.version_time


@pytest.mark.case(11)
def test_of_two_files_of_one_scan_the_later_creation_is_the_newer_version() -> None:
    """Else the file that was copied last wins, and that can be the older one."""
    start = NOW.replace(minute=1, second=17)
    first = scan(start, created=start + timedelta(minutes=3))
    again = scan(start, created=start + timedelta(minutes=5))
    copied_late = Item(first.key, again.last_modified + HOUR)

    one, two = sightings(MODELS["goes_east"], "noaa-goes19", [copied_late, again])

    assert one.slot == two.slot
    assert one.version_time < two.version_time


def test_what_retention_has_taken_is_not_seen_and_what_it_keeps_is() -> None:
    """Else purge and discovery bring the same grid back and forth."""
    midnight = NOW - timedelta(hours=24, minutes=30)
    kept, gone = radar(midnight + timedelta(minutes=10)), radar(midnight - timedelta(minutes=1))
    source, ledger = Source([kept, gone]), Ledger()

    tick(MODELS["mrms"], source, ledger)

    assert ledger.keys == {kept.key}


@pytest.mark.case(15)
def test_an_empty_object_is_seen() -> None:
    """Else a damaged upload looks as if the source had not published yet."""
    item = Item(radar(NOW).key, NOW, size_bytes=0)

    (seen,) = sightings(MODELS["mrms"], "noaa-mrms-pds", [item])

    assert seen.size_bytes == 0

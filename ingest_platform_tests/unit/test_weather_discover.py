"""Which listings discovery asks for, how it reads their pages, and where it goes on when its time was up."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_platform.weather.discover import Cursor, Position, discover, partition_prefixes, prefixes
from ingest_platform.weather.model import Model
from ingest_platform_tests.unit.weather_source import (
    HOUR,
    MODELS,
    NOW,
    PAGE_KEYS,
    Ledger,
    Source,
    gfs,
    hrrr,
    pages_left,
    radar,
    scan,
    tick,
)

# --- which listings --------------------------------------------------------------------------------------


@pytest.mark.case(3)
@pytest.mark.parametrize(
    ("now", "folders"),
    [
        (datetime(2027, 1, 1, 0, 3, tzinfo=UTC), ["2027/001/00", "2026/365/23", "2026/365/22"]),
        (datetime(2029, 1, 1, 0, 3, tzinfo=UTC), ["2029/001/00", "2028/366/23", "2028/366/22"]),
        (datetime(2028, 3, 1, 1, 59, tzinfo=UTC), ["2028/061/01", "2028/061/00", "2028/060/23"]),
    ],
)
def test_satellite_folders_follow_the_scan_over_midnight_and_new_year(
    now: datetime, folders: list[str]
) -> None:
    """Else the last hour of every day, and of every year, is lost."""
    listed = prefixes(MODELS["goes_east"], now - 2 * HOUR, now)

    assert [p.prefix for p in listed] == [f"ABI-L2-CMIPC/{f}/OR_ABI-L2-CMIPC-M" for f in folders]


@pytest.mark.case(3)
def test_radar_reads_both_days_at_a_minute_past_midnight() -> None:
    """Else the last minutes of every day are lost."""
    now = datetime(2027, 1, 1, 0, 1, tzinfo=UTC)

    listed = prefixes(MODELS["mrms"], now - 2 * HOUR, now)

    rain = [(p.prefix, p.start_after) for p in listed if "PrecipRate" in p.prefix]
    assert rain == [
        ("CONUS/PrecipRate_00.00/20270101/MRMS_PrecipRate_00.00_20270101-", None),
        (
            "CONUS/PrecipRate_00.00/20261231/MRMS_PrecipRate_00.00_20261231-",
            "CONUS/PrecipRate_00.00/20261231/MRMS_PrecipRate_00.00_20261231-2159",
        ),
    ]


@pytest.mark.case(3)
def test_the_last_gfs_cycle_of_the_old_year_is_listed_in_the_new_one() -> None:
    """Else 18Z, whose files appear after midnight, never comes."""
    now = datetime(2027, 1, 1, 0, 3, tzinfo=UTC)

    listed = [p.prefix for p in prefixes(MODELS["gfs"], now - 7 * HOUR, now)]

    assert "gfs.20261231/18/atmos/gfs.t18z.pgrb2.0p25.f" in listed


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@given(age=st.timedeltas(timedelta(0), timedelta(days=1000)), length=st.timedeltas(HOUR, 60 * HOUR))
def test_every_partition_of_a_window_is_covered_by_its_listings(
    model: Model, age: timedelta, length: timedelta
) -> None:
    """Else an hour between two folders is never looked at."""
    until = datetime(2028, 12, 31, 23, 59, tzinfo=UTC) - age
    since = until - length

    listed = prefixes(model, since, until)

    moments = (since + n * HOUR for n in range(int(length / HOUR)))
    assert {model.partition_key(m) for m in moments} <= {key for p in listed for key in p.partitions}
    for prefix in listed:
        narrow = [n.prefix for key in prefix.partitions for n in partition_prefixes(model, key)]
        assert any(text.startswith(prefix.prefix) for text in narrow)


@pytest.mark.case(34)
def test_both_gfs_templates_are_listed_while_both_are_valid() -> None:
    """Else the day v17 takes over is the day the forecast stops."""
    cycle = datetime(2026, 11, 20, 6, tzinfo=UTC)

    listed = [p.prefix for p in partition_prefixes(MODELS["gfs"], MODELS["gfs"].partition_key(cycle))]

    assert listed == [
        "gfs.20261120/06/products/atmos/grib2/0p25/gfs.t06z.pres_a.0p25.f",
        "gfs.20261120/06/atmos/gfs.t06z.pgrb2.0p25.f",
    ]


@pytest.mark.case(34)
def test_the_satellite_changes_within_a_day_and_no_scan_is_lost() -> None:
    """Else the archive has a hole, or a dead bucket is polled for ever."""
    switch = datetime(2025, 4, 7, 15, tzinfo=UTC)
    model = MODELS["goes_east"]
    old, new = (Source([scan(switch + n * HOUR, satellite=s) for n in range(-2, 2)]) for s in (16, 19))
    ledger = Ledger()

    discover(
        model,
        lambda bucket: {"noaa-goes16": old, "noaa-goes19": new}[bucket],
        ledger.see,
        now=switch + 2 * HOUR,
        cursor=Cursor(),
        budget=lambda: 40.0,
    )

    assert [(s.bucket, s.slot) for s in sorted(ledger.new, key=lambda s: s.slot)] == [
        ("noaa-goes16", "20250407T130000.3/C13"),
        ("noaa-goes16", "20250407T140000.3/C13"),
        ("noaa-goes19", "20250407T150000.3/C13"),
        ("noaa-goes19", "20250407T160000.3/C13"),
    ]


def test_one_partition_is_listed_as_narrowly_as_its_keys_allow() -> None:
    """Else a backfill of an hour reads the whole day."""
    listed = partition_prefixes(MODELS["mrms"], "2026-07-18T09")

    assert [p.prefix for p in listed if "Precip" in p.prefix] == [
        "CONUS/PrecipRate_00.00/20260718/MRMS_PrecipRate_00.00_20260718-09"
    ]


# --- pages -----------------------------------------------------------------------------------------------


@pytest.mark.case(2)
@pytest.mark.parametrize("keys", [1, 999, 1000, 1001, 2500])
def test_a_listing_costs_a_request_per_thousand_keys_and_the_next_tick_reads_only_the_end(keys: int) -> None:
    """Else the newest object is cut off by the first page, or every tick reads the whole day again."""
    midnight = NOW.replace(hour=0, minute=0)
    step = (NOW - midnight) / keys
    items = [radar(NOW - n * step, after=timedelta(0)) for n in range(keys)]
    ledger, source = Ledger(), Source(items)

    first = tick(MODELS["mrms"], source, ledger)
    full_pass = source.requests.total()
    second = tick(MODELS["mrms"], source, ledger, first.cursor, now=NOW + timedelta(minutes=2))

    day = "CONUS/PrecipRate_00.00/20260718/MRMS_PrecipRate_00.00_20260718-"
    recent = sum(item.key > f"{day}0559" for item in items)
    assert ledger.keys == {item.key for item in items}
    # The recent window is read for its own sake, then the whole day once.
    assert source.requests[day] == ceil(keys / PAGE_KEYS) + 2 * max(1, ceil(recent / PAGE_KEYS))
    assert (second.listed, second.seen) == (recent, 0)
    assert first.list_calls == full_pass
    assert second.list_calls == source.requests.total() - full_pass


@pytest.mark.case(2)
def test_the_newest_of_2200_days_is_found_without_reading_the_others() -> None:
    """Else the first page of dates ends years ago, and that day passes for the newest."""
    source = Source([radar(NOW - timedelta(days=n), timedelta(0)) for n in range(2200)])
    ledger = Ledger()

    found = tick(MODELS["mrms"], source, ledger)

    assert [s.version_time for s in ledger.new] == [NOW, NOW - timedelta(days=1)]
    assert found.list_calls == source.requests.total() == 6  # two products: the window, then two days


@pytest.mark.case(2)
@settings(max_examples=20, deadline=None)
@given(pages=st.integers(15, 60), drift=st.integers(0, 300))
def test_a_pass_that_runs_out_of_time_goes_on_where_it_stopped(pages: int, drift: int) -> None:
    """Else a slow source is never read to its end, and old gaps never heal."""
    cycles = [NOW.replace(minute=0) - n * HOUR for n in range(30)]
    items = [hrrr(cycle, lead, 2 * HOUR) for cycle in cycles for lead in range(19)]
    source, ledger = Source(items, at=NOW + 2 * HOUR), Ledger()
    cursor, now = Cursor(), NOW

    for _ in range(100):
        found = tick(MODELS["hrrr"], source, ledger, cursor, now=now, budget=pages_left(pages))
        cursor, now = found.cursor, now + timedelta(seconds=drift)
        assert len(cursor.text()) <= 1024
        if found.complete:
            break

    assert found.complete
    assert ledger.keys == {item.key for item in items}
    assert len(ledger.new) == len(items)


def test_a_tick_without_time_still_reads_one_page_and_the_last_page_is_reached() -> None:
    """Else a source slower than the budget is never read to its end."""
    midnight = NOW.replace(hour=0, minute=0)
    source = Source([radar(midnight + timedelta(seconds=n)) for n in range(0, 12 * 3600, 15)])
    ledger = Ledger()

    ticks = [tick(MODELS["mrms"], source, ledger, budget=lambda: 0.0)]
    while len(ticks) < 100 and ledger.keys != set(source.keys):
        assert ticks[-1].list_calls == 1
        assert ticks[-1].cursor.due(NOW, HOUR)
        ticks.append(tick(MODELS["mrms"], source, ledger, ticks[-1].cursor, budget=lambda: 0.0))

    assert ledger.keys == set(source.keys)


def test_a_failed_listing_raises_and_the_old_cursor_finds_everything() -> None:
    """Else an outage looks like an empty source."""
    source, ledger = Source([gfs(NOW.replace(hour=6, minute=0), 7)], broken=True), Ledger()

    with pytest.raises(ConnectionError):
        tick(MODELS["gfs"], source, ledger)
    source.broken = False
    found = tick(MODELS["gfs"], source, ledger)

    assert (found.seen, found.complete) == (1, True)


# --- the cursor ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "[]", "7", "{", '{"full": {"of": "full"}}', '{"v": 1}'])
def test_a_cursor_that_cannot_be_read_is_a_fresh_one(text: str | None) -> None:
    """Else an upgrade stops discovery; a fresh cursor costs one full pass."""
    assert Cursor.parse(text) == Cursor()


def test_a_cursor_survives_its_text() -> None:
    """Else every tick is a first tick."""
    stop = Position(NOW, "noaa-mrms-pds", "CONUS/", radar(NOW).key)
    cursor = Cursor(NOW, NOW - HOUR, NOW + HOUR, recent=stop, full=replace(stop, after=None))

    assert Cursor.parse(cursor.text()) == cursor


def test_a_full_pass_is_due_every_hour_and_when_the_clock_was_set_back() -> None:
    """Else a clock that once ran ahead stops the healing of gaps."""
    cursor = Cursor(listed_at=NOW, full_pass_at=NOW)

    due = [cursor.full_pass_is_due(NOW + minutes * timedelta(minutes=1)) for minutes in (-61, -5, 0, 59, 60)]

    assert due == [True, False, False, False, True]
    assert not cursor.due(NOW + timedelta(minutes=4), timedelta(minutes=5))
    assert cursor.due(NOW + timedelta(minutes=5), timedelta(minutes=5))


@pytest.mark.parametrize(("model", "calls"), [("gfs", 40), ("hrrr", 75), ("goes_east", 27), ("mrms", 10)])
def test_a_full_pass_takes_few_requests(model: str, calls: int) -> None:
    """Else the hourly pass does not end within a tick's 40 seconds (a request takes about 0.1 s)."""
    found = tick(MODELS[model], Source([]), Ledger())

    assert found.complete
    assert found.list_calls <= calls

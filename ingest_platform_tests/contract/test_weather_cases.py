"""Acceptance cases of the weather specification, by number, through the whole chain: list, see, claim, fetch,
decode, publish, commit, read.
"""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from ingest_platform.errors import StoreUnavailable
from ingest_platform.weather import feed
from ingest_platform.weather.eccodes_library import load_eccodes
from ingest_platform.weather.ingest import ingest_partition
from ingest_platform.weather.model import Model
from ingest_platform.weather.read import NotPublished
from ingest_platform_tests.weather_world import (
    CYCLE,
    World,
    forecast,
    key_of,
    messages,
    pocket,
    windowed,
    world,
)

GRACE = timedelta(minutes=11)


@pytest.fixture
def gfs() -> Model:
    return pocket("gfs")


def straight(grib: bytes, offset: int) -> np.ndarray:
    """The field at this offset as eccodes alone reads it, float32."""
    eccodes = load_eccodes()
    handle = eccodes.codes_new_from_message(grib[offset:])
    try:
        values = eccodes.codes_get_values(handle).astype(np.float32)
        rows, columns = eccodes.codes_get(handle, "Nj"), eccodes.codes_get(handle, "Ni")
        return np.asarray(values.reshape(rows, columns))
    finally:
        eccodes.codes_release(handle)


@pytest.mark.case(5)
def test_a_lead_that_appears_after_the_next_cycle_is_ingested(place: World) -> None:
    """Else f18 of every HRRR cycle is lost."""
    hrrr = pocket("hrrr", ["temperature_2m"])
    five, six = CYCLE - timedelta(hours=1), CYCLE
    place.put_lead(hrrr, 17, cycle=five)
    place.put_lead(hrrr, 0, cycle=six)
    place.ingest(hrrr)

    place.advance(minutes=30)
    place.put_lead(hrrr, 18, cycle=five)
    place.ingest(hrrr)

    leads = place.open(hrrr, hrrr.partition_key(five)).lead.values
    assert (leads / np.timedelta64(1, "h")).tolist() == [17, 18]


@pytest.mark.case(6)
def test_leads_that_appear_out_of_order_are_each_ingested_once(place: World, gfs: Model) -> None:
    """Else a late f011 is skipped for ever."""
    place.put_lead(gfs, 12)
    (first,) = place.ingest(gfs)
    place.put_lead(gfs, 11)
    (second,) = place.ingest(gfs)

    assert (first.published, second.published) == (1, 1)
    assert place.states(gfs) == ["ingested", "ingested"]
    assert place.ingest(gfs) == []
    assert (place.open(gfs).lead.values / np.timedelta64(1, "h")).tolist() == [11, 12]


@pytest.mark.case(7)
def test_an_object_that_is_still_being_uploaded_is_waited_for(place: World, gfs: Model) -> None:
    """Else half a forecast is published, or the attempts of a slow upload run out."""
    file = forecast(gfs, CYCLE, 3)
    place.put(gfs.sources[-1].bucket, key_of(gfs, CYCLE, 3), file.grib[: len(file.grib) - 200])
    place.put_index(gfs, 3, file.index)

    for _ in range(5):
        place.ingest(gfs)
        place.advance(hours=1)

    (row,) = place.objects(gfs)
    assert (row.state, row.attempts) == ("pending", 0)
    assert "upload is not complete" in (row.error or "")
    with pytest.raises(NotPublished):
        place.open(gfs)

    place.put_lead(gfs, 3)
    place.ingest(gfs)
    assert place.states(gfs) == ["superseded", "ingested"]


@pytest.mark.case(8)
def test_without_an_inventory_the_whole_object_gives_the_same_grids(
    place: World, gfs: Model, tmp_path: Path
) -> None:
    """Else a missing .idx costs a lead, or gives other data."""
    other = world(tmp_path / "indexed")
    other.put_lead(gfs, 3)
    other.ingest(gfs)
    place.put_lead(gfs, 3, index=False)

    (waiting,) = place.ingest(gfs)
    assert waiting.postponed == 1
    assert "inventory" in waiting.errors[0]
    place.advance(minutes=GRACE.total_seconds() / 60)
    (scanned,) = place.ingest(gfs)

    assert scanned.published == 1
    assert place.grids(gfs) == other.grids(gfs)


@pytest.mark.case(9)
def test_a_stale_inventory_never_puts_a_grid_under_another_s_name(
    place: World, gfs: Model, tmp_path: Path
) -> None:
    """Else humidity is published as temperature, as happened to others."""
    honest = world(tmp_path / "honest")
    honest.put_lead(gfs, 3)
    honest.ingest(gfs)
    file = forecast(gfs, CYCLE, 3)
    lines = file.index.splitlines()
    shifted = [
        ":".join([p[0], str(int(p[1]) + 17 * (n > 0)), *p[2:]])
        for n, p in enumerate(line.split(":") for line in lines)
    ]
    place.put_lead(gfs, 3, index=False)
    place.put_index(gfs, 3, "\n".join(shifted) + "\n")

    (report,) = place.ingest(gfs)

    assert report.published == 1
    assert place.grids(gfs) == honest.grids(gfs)


@pytest.mark.case(9)
def test_an_inventory_that_swaps_two_messages_publishes_neither_wrongly(
    place: World, gfs: Model, tmp_path: Path
) -> None:
    """A frame fits any message: only the identity inside tells them apart."""
    honest = world(tmp_path / "honest")
    honest.put_lead(gfs, 3)
    honest.ingest(gfs)
    file = forecast(gfs, CYCLE, 3)
    lines = [line.split(":") for line in file.index.splitlines()]
    names = [line[3:] for line in lines]
    swapped = [":".join(line[:3] + names[(n + 1) % len(names)]) for n, line in enumerate(lines)]
    place.put_lead(gfs, 3, index=False)
    place.put_index(gfs, 3, "\n".join(swapped) + "\n")

    place.ingest(gfs)

    wrong = {name for name, checksum in place.grids(gfs).items() if honest.grids(gfs)[name] != checksum}
    assert not wrong


@pytest.mark.case(10)
def test_a_republished_object_replaces_the_old_version_at_once(place: World, gfs: Model) -> None:
    """Else readers see two versions mixed, or the correction is ignored."""
    place.put_lead(gfs, 3, seed=1)
    place.ingest(gfs)
    before = place.open(gfs)
    old = before.temperature_2m.values.copy()

    place.put_lead(gfs, 3, seed=2)
    place.ingest(gfs)

    after = place.open(gfs)
    assert place.states(gfs) == ["superseded", "ingested"]
    assert not np.array_equal(after.temperature_2m.values, old)
    np.testing.assert_array_equal(before.temperature_2m.values, old)
    assert len(place.grids(gfs)) == 15


@pytest.mark.case(12)
def test_a_missing_lead_hides_no_other_and_heals_by_itself(place: World, gfs: Model) -> None:
    """Else one gap makes a whole cycle unusable."""
    for lead in (6, 8):
        place.put_lead(gfs, lead)
    place.ingest(gfs)
    assert place.open(gfs).sizes["lead"] == 2

    place.advance(hours=20)
    place.put_lead(gfs, 7)
    place.ingest(gfs)

    assert (place.open(gfs).lead.values / np.timedelta64(1, "h")).tolist() == [6, 7, 8]


@pytest.mark.case(14)
def test_a_damaged_message_costs_only_itself(place: World, gfs: Model, tmp_path: Path) -> None:
    """Else one flipped byte loses a whole forecast hour, or goes unnoticed."""
    honest = world(tmp_path / "honest")
    honest.put_lead(gfs, 3)
    honest.ingest(gfs)
    file = forecast(gfs, CYCLE, 3)
    damaged = bytearray(file.grib)
    offset, length = list(messages(file.grib))[1]
    damaged[offset + length - 4 : offset + length] = b"0000"
    place.put(gfs.sources[-1].bucket, key_of(gfs, CYCLE, 3), bytes(damaged))
    place.put_index(gfs, 3, file.index)

    (report,) = place.ingest(gfs)

    (row,) = place.objects(gfs)
    assert row.state == "partial"
    assert report.partial == 1
    assert "rejected" in (row.error or "")
    lost = honest.grids(gfs).keys() - place.grids(gfs).keys()
    assert len(lost) == 1
    assert place.grids(gfs).items() <= honest.grids(gfs).items()

    place.put_lead(gfs, 3)
    place.ingest(gfs)
    assert place.grids(gfs) == honest.grids(gfs)


@pytest.mark.case(15)
@pytest.mark.parametrize(
    "body",
    [b"", b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>" * 4],
    ids=["0 bytes", "XML error body"],
)
def test_a_body_that_is_no_weather_is_never_a_success(place: World, gfs: Model, body: bytes) -> None:
    """Else "completed, 0 parameters" is what the user finds in the morning."""
    place.put(gfs.sources[-1].bucket, key_of(gfs, CYCLE, 3), body)
    place.advance(minutes=GRACE.total_seconds() / 60)

    for _ in range(4):
        place.ingest(gfs)
        place.advance(hours=1)

    (row,) = place.objects(gfs)
    assert row.state == "quarantined"
    assert row.error
    assert place.grids(gfs) == {}


@pytest.mark.case(16)
def test_unknown_messages_are_passed_over_and_absent_ones_are_named(place: World) -> None:
    """Else a new variable at the source stops the ingest, or a wrong name in the YAML is never found."""
    gfs = pocket("gfs", ["temperature", "temperature_2m", "pressure_msl", "dew_point_2m", "wind_gust"])
    without = pocket("gfs", ["temperature", "temperature_2m", "pressure_msl", "dew_point_2m"])
    place.put_lead(without, 3)

    (report,) = place.ingest(gfs)

    assert report.published == 1
    assert report.partial == 0
    assert {name.split(" ")[0] for name in report.absent} == {"wind_gust"}
    assert "wind_gust" not in place.open(gfs)


@pytest.mark.case(17)
def test_two_windows_of_one_variable_are_two_grids(place: World) -> None:
    """Else rain since the cycle and rain of the last hour overwrite each other."""
    gfs = windowed()
    place.put_lead(gfs, 9)

    place.ingest(gfs)

    live = place.catalog.published(gfs.source_name, gfs.partition_key(CYCLE))
    assert live is not None
    windows = {row["variable"]: row["window"] for row in live.artifacts if row["parameter"] == "APCP"}
    assert sorted(windows.values()) == ["0-9 hour acc", "6-9 hour acc"]
    assert len({row["checksum"] for row in live.artifacts if row["parameter"] == "APCP"}) == 2


@pytest.mark.case(30)
def test_a_database_outage_fails_the_tick_and_marks_nothing(
    place: World, gfs: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else "not seen yet" after an outage ingests everything twice, or nothing ever."""
    place.put_lead(gfs, 3)
    cursor = place.catalog.cursor(gfs.source_name)

    def away(*_: object) -> int:
        raise OperationalError("see", {}, Exception("server closed the connection"))

    monkeypatch.setattr(place.catalog, "see", away)
    with pytest.raises(OperationalError):
        place.poll(gfs)
    monkeypatch.undo()

    assert place.catalog.cursor(gfs.source_name) == cursor
    assert [r.published for r in place.ingest(gfs)] == [1]
    assert place.ingest(gfs) == []


@pytest.mark.case(31)
def test_published_grids_equal_a_straight_read(place: World, gfs: Model) -> None:
    """Else our numbers are not NOAA's."""
    place.put_lead(gfs, 3)
    place.ingest(gfs)
    file = forecast(gfs, CYCLE, 3)
    inventory = [line.split(":") for line in file.index.splitlines()]

    ds = place.open(gfs).sel(lead="3h")

    for _, offset, _, variable, level, *_ in inventory:
        reference = straight(file.grib, int(offset))
        if (variable, level) == ("TMP", "2 m above ground"):
            np.testing.assert_array_equal(ds.temperature_2m.values, reference)
        elif variable == "TMP" and level.endswith(" mb"):
            np.testing.assert_array_equal(ds.temperature.sel(isobaric=int(level[:-3])).values, reference)
    assert ds.latitude.values[0] == 90.0
    assert ds.longitude.values[0] == 0.0


@pytest.mark.case(13)
def test_three_looks_at_the_source_make_one_version(place: World, gfs: Model) -> None:
    """Else sensor, cron and backfill each ingest it."""
    place.put_lead(gfs, 3)

    for _ in range(2):
        place.poll(gfs)
    feed.see_partition(place.rails, gfs, gfs.partition_key(CYCLE))
    published = [
        ingest_partition(place.rails, gfs, gfs.partition_key(CYCLE), owner=o).published for o in "abc"
    ]

    assert published == [1, 0, 0]
    assert place.states(gfs) == ["ingested"]


def test_a_full_disk_quarantines_nobody(place: World, gfs: Model) -> None:
    """Else an hour without space on our side costs every object that came in it."""
    place.put_lead(gfs, 3)
    place.rails.scratch.parent.mkdir(parents=True, exist_ok=True)
    place.rails.scratch.write_text("no folder can be made here")

    for _ in range(5):
        with pytest.raises((OSError, StoreUnavailable)):
            place.ingest(gfs)
        place.advance(hours=1)

    (row,) = place.objects(gfs)
    assert (row.state, row.attempts) == ("pending", 0)
    place.rails.scratch.unlink()
    assert [report.published for report in place.ingest(gfs)] == [1]

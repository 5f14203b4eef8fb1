"""Acceptance cases of satellite and radar observations, by number, through the whole chain."""

import gzip
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ingest_platform_tests.weather_world import (
    World,
    shipped,
)


@pytest.mark.case(11)
def test_of_two_files_of_one_scan_the_later_creation_is_live(place: World) -> None:
    """Else the reprocessed scan is doubled or lost."""
    goes = shipped("goes_east")
    start = datetime(2026, 11, 20, 11, 1, 17, 300_000, tzinfo=UTC)
    hour = goes.partition_key(start)
    place.put_scan(goes, start, created=start + timedelta(minutes=9), seed=2)
    place.put_scan(goes, start, created=start + timedelta(minutes=4), seed=1)

    place.ingest(goes)

    assert sorted(place.states(goes, hour)) == ["ingested", "superseded"]
    (live,) = [row for row in place.objects(goes, hour) if row.state == "ingested"]
    assert f"_c{start + timedelta(minutes=9):%Y%j%H%M%S}" in live.key
    assert len(place.grids(goes, hour)) == 1
    assert place.open(goes, hour).time.values[0] == np.datetime64("2026-11-20T11:01:17.300")


@pytest.mark.case(20)
@pytest.mark.parametrize("damage", ["truncated", "bad CRC"])
def test_a_damaged_gzip_is_retried_then_quarantined(place: World, damage: str) -> None:
    """Else half an image of rain is published."""
    mrms = shipped("mrms")
    valid = datetime(2026, 11, 20, 11, 58, 39, tzinfo=UTC)
    whole = place.put_radar(mrms, valid).read_bytes()
    broken = whole[:-40] if damage == "truncated" else whole[:-8] + b"\0\0\0\0" + whole[-4:]
    place.put_radar(mrms, valid, content=broken)
    hour = mrms.partition_key(valid)

    attempts = []
    for _ in range(4):
        place.ingest(mrms)
        attempts.append(place.objects(mrms, hour)[-1].attempts)
        place.advance(hours=1)

    assert attempts[:3] == [1, 2, 3]
    assert place.states(mrms, hour) == ["quarantined"]
    assert place.grids(mrms, hour) == {}


@pytest.mark.case(20)
def test_a_truncated_netcdf_is_quarantined(place: World) -> None:
    """Else the bottom of the image is fill."""
    goes = shipped("goes_west")
    start = datetime(2026, 11, 20, 11, 1, 17, 300_000, tzinfo=UTC)
    path = place.put_scan(goes, start)
    place.put(
        "noaa-goes18", str(path.relative_to(place.root / "mirror" / "noaa-goes18")), path.read_bytes()[:-500]
    )

    for _ in range(4):
        place.ingest(goes)
        place.advance(hours=1)

    assert place.states(goes, goes.partition_key(start)) == ["quarantined"]


@pytest.mark.case(32)
def test_seconds_tell_two_observations_of_a_minute_apart(place: World) -> None:
    """Else one of them is overwritten."""
    mrms = shipped("mrms")
    first, second = (datetime(2026, 11, 20, 11, 58, s, tzinfo=UTC) for s in (1, 41))
    place.put_radar(mrms, first)
    place.put_radar(mrms, second)

    place.ingest(mrms)

    ds = place.open(mrms, "2026-11-20T11")
    assert ds.time.values.tolist() == [int(t.timestamp()) * 10**9 for t in (first, second)]


@pytest.mark.case(34)
def test_a_source_that_switches_within_an_hour_leaves_no_gap(place: World) -> None:
    """Else the hour of the satellite change is lost, or shifted by a pixel."""
    goes = shipped("goes_east")
    place.at = datetime(2025, 4, 7, 15, 30, tzinfo=UTC)
    old = datetime(2025, 4, 7, 14, 56, 17, 300_000, tzinfo=UTC)
    new = datetime(2025, 4, 7, 15, 1, 17, 300_000, tzinfo=UTC)
    paths = [place.put_scan(goes, old), place.put_scan(goes, new)]

    place.ingest(goes)

    assert [p.relative_to(place.root / "mirror").parts[0] for p in paths] == ["noaa-goes16", "noaa-goes19"]
    for start in (old, new):
        assert place.states(goes, goes.partition_key(start)) == ["ingested"]


@pytest.mark.case(36)
@pytest.mark.parametrize("skew_minutes", [-5, 5])
def test_a_host_clock_that_is_minutes_off_loses_nothing(place: World, skew_minutes: int) -> None:
    """Else observations near the hour vanish on a machine without NTP."""
    mrms = shipped("mrms")
    truth = datetime(2026, 11, 21, 0, 0, 40, tzinfo=UTC)
    place.put_radar(mrms, truth - timedelta(minutes=2))
    place.put_radar(mrms, truth)
    place.at = truth + timedelta(minutes=skew_minutes)

    place.ingest(mrms)

    assert place.states(mrms, "2026-11-20T23") == ["ingested"]
    assert place.states(mrms, "2026-11-21T00") == ["ingested"]


def test_a_gzip_that_holds_no_grib_is_named_for_what_it_is(place: World) -> None:
    """Else an operator looks for a network fault."""
    mrms = shipped("mrms")
    valid = datetime(2026, 11, 20, 11, 58, 39, tzinfo=UTC)
    place.put_radar(mrms, valid, content=gzip.compress(b"<html>not found</html>" * 10))

    place.ingest(mrms)

    (row,) = place.objects(mrms, mrms.partition_key(valid))
    assert row.state == "pending"
    assert "GRIB" in (row.error or "")

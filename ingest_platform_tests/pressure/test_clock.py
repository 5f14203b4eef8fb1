"""A host whose clock is five minutes before or after the source's and the database's: it finds, waits for and
purges the same. Only how soon may differ.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingest_platform.operations import retention
from ingest_platform.weather import feed
from ingest_platform.weather.model import Model
from ingest_platform_tests.weather_world import CYCLE, NOON, World, forecast, pocket, shipped, world

WRONG = timedelta(minutes=5)
EVERY = timedelta(minutes=2)


@pytest.fixture(params=[-WRONG, WRONG], ids=["5 minutes slow", "5 minutes fast"])
def wrong(request: pytest.FixtureRequest, place: World) -> World:
    """A world whose host has the wrong time; its source and its database have the right one."""
    off: timedelta = request.param
    place.rails = replace(place.rails, clock=lambda: place.at + off)
    return place


@pytest.fixture
def right(tmp_path: Path) -> World:
    return world(tmp_path / "right")


@pytest.fixture
def gfs() -> Model:
    return pocket("gfs")


def at_midnight(place: World, radar: Model) -> Iterator[World]:
    """Radar every two minutes from 23:50 to 00:10 of a new year: other hour, other folder, other day."""
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    for minute in range(-10, 11, 2):
        place.at = new_year + timedelta(minutes=minute)
        place.put_radar(radar, place.at)
        place.advance(seconds=40)
        yield place


def test_discovery_finds_everything_and_once(wrong: World, right: World) -> None:
    """Else the host that is slow misses the first minutes of each day, and the fast one the last."""
    radar = shipped("mrms")

    def published(place: World) -> list[int]:
        return [sum(r.published for r in place.ingest(radar)) for place in at_midnight(place, radar)]

    assert published(wrong) == published(right) == [1] * 11
    for hour in ("2026-12-31T23", "2027-01-01T00"):
        assert wrong.grids(radar, hour) == right.grids(radar, hour)
        assert set(wrong.states(radar, hour)) == {"ingested"}


@pytest.mark.parametrize("step", [-WRONG, WRONG], ids=["set back", "set forward"])
def test_a_clock_that_is_set_right_delays_no_listing(place: World, step: timedelta) -> None:
    """Else the feed pauses for as long as the clock was wrong."""
    radar = shipped("mrms")
    place.put_radar(radar, NOON)
    assert feed.poll(place.rails, radar, every=EVERY) is not None

    place.rails = replace(place.rails, clock=lambda: place.at + step)
    place.advance(seconds=1)
    first = feed.poll(place.rails, radar, every=EVERY)
    place.advance(minutes=2)
    second = feed.poll(place.rails, radar, every=EVERY)

    assert first is not None
    assert second is not None


def test_an_inventory_is_used_or_done_without(wrong: World, right: World, gfs: Model) -> None:
    """Else a wrong clock waits for ever for an inventory, or takes another file's grids."""
    for place in (right, wrong):
        place.put_lead(gfs, 3, index=False)
        place.put_lead(gfs, 4, index=False)
        place.ingest(gfs)
        place.advance(minutes=4)
        place.put_index(gfs, 4, forecast(gfs, CYCLE, 4).index)
        for _ in range(16):
            place.ingest(gfs)
            place.advance(minutes=2)

    assert wrong.grids(gfs) == right.grids(gfs)
    assert wrong.states(gfs) == ["ingested", "ingested"]
    assert [row.attempts for row in wrong.objects(gfs)] == [1, 1]


def test_what_a_wrong_clock_purged_does_not_come_back(wrong: World, right: World) -> None:
    """Else purge and discovery play ball with an hour at the cutoff: read, delete, read again."""
    radar = shipped("mrms")
    keep = timedelta(hours=radar.retention_hours)
    at_the_edge = NOON - keep - timedelta(hours=1)  # its hour ends exactly at the cutoff
    for place in (wrong, right):
        for valid in (at_the_edge, *(NOON - timedelta(hours=h, minutes=30) for h in range(1, 4))):
            place.put_radar(radar, valid)
        place.at = NOON - timedelta(minutes=20)
        place.ingest(radar)
        place.at = NOON

    def purge(place: World) -> None:
        policies = retention.policies([radar])
        retention.purge(place.catalog, place.rails.store, policies, now=place.rails.clock(), owner="test")

    purge(wrong)
    gone = {row.partition for row in wrong.catalog.partitions() if row.state == "purged"}
    wrong.rails = replace(wrong.rails, clock=lambda: wrong.at)
    wrong.ingest(radar)
    assert {row.partition for row in wrong.catalog.partitions() if row.state == "purged"} == gone
    assert gone <= {radar.partition_key(at_the_edge)}

    for place in (wrong, right):
        place.advance(minutes=6)
        purge(place)
        place.ingest(radar)
    assert {p.partition for p in wrong.catalog.partitions() if p.state == "open"} == {
        p.partition for p in right.catalog.partitions() if p.state == "open"
    }

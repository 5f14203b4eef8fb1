"""Retention shortened and lengthened again, over the real discovery of a real model's mirror."""

from datetime import timedelta

import pytest

from ingest_platform.operations.retention import Purged, policies, purge
from ingest_platform.weather import feed
from ingest_platform.weather.ingest import ingest_partition
from ingest_platform.weather.model import Model
from ingest_platform.weather.read import NotPublished
from ingest_platform_tests.weather_world import NOON, World, pocket

DAY = timedelta(days=1)
# One observation a day: enough to see which days are there.
AGES = range(6)


def kept_for(model: Model, days: int) -> Model:
    return model.model_copy(update={"retention_hours": days * 24, "keep_latest": 1})


def retain(place: World, model: Model) -> Purged:
    return purge(place.catalog, place.rails.store, policies([model]), now=place.at, owner="purge")


@pytest.fixture
def radar(place: World) -> Model:
    """A mirror with an observation of each of the last six days, all ingested under seven days' retention."""
    model = kept_for(pocket("mrms", ["reflectivity_composite"]), 7)
    for age in AGES:
        place.put_radar(model, NOON - age * DAY)
    place.ingest(model)
    assert len(live_days(place, model)) == len(AGES)
    place.advance(hours=2)  # the hour of noon is over, so that days count from its end
    return model


def live_days(place: World, model: Model) -> list[int]:
    """Ages in days of what readers can open."""
    found = []
    for age in AGES:
        try:
            place.open(model, model.partition_key(NOON - age * DAY)).load()
        except NotPublished:
            continue
        found.append(age)
    return found


@pytest.mark.case(28)
def test_retention_shortened_and_lengthened_again_fetches_nothing_by_itself(
    place: World, radar: Model
) -> None:
    """Else a week is fetched again and again, or a change of mind costs a week of downloads."""
    three, seven = kept_for(radar, 3), radar

    shrunk = retain(place, three)
    fetched = []
    for _ in range(3):  # polls, runs and purges go on as ever
        fetched += place.ingest(seven)
        retained = retain(place, seven)

    assert len(shrunk.done) == 3
    assert fetched == []
    assert retained.done == ()
    assert live_days(place, seven) == [0, 1, 2]


@pytest.mark.case(28)
def test_an_explicit_backfill_brings_back_what_a_longer_retention_wants(place: World, radar: Model) -> None:
    """Else what was purged by mistake can never be fetched again, or the next purge takes it away."""
    retain(place, kept_for(radar, 3))
    day = NOON - 5 * DAY
    key = radar.partition_key(day)

    place.catalog.admit(radar.source_name, key, radar.partition_end(key))
    assert feed.see_partition(place.rails, radar, key) == 1
    ingest_partition(place.rails, radar, key, owner="backfill")
    afterwards = retain(place, kept_for(radar, 3))

    assert afterwards.done == ()
    assert live_days(place, radar) == [0, 1, 2, 5]


@pytest.mark.case(27)
def test_what_the_source_still_lists_is_not_fetched_again_while_it_is_purged_day_after_day(
    place: World, radar: Model
) -> None:
    """Else ingestion and purge chase each other over the same files for ever."""
    for _ in range(4):
        place.advance(days=1)
        retain(place, radar)
        place.poll(radar)

        assert place.catalog.due_partitions(radar.source_name) == ()

    assert live_days(place, radar) == [0, 1, 2]


@pytest.mark.case(23)
def test_a_run_whose_cycle_is_purged_under_it_ends_without_publishing(place: World, radar: Model) -> None:
    """Else a machine that was suspended brings a purged hour back, without its bytes."""
    place.put_radar(radar, NOON - 5 * DAY + timedelta(minutes=2))
    key = radar.partition_key(NOON - 5 * DAY)
    feed.see_partition(place.rails, radar, key)
    purged: list[Purged] = []

    def purge_under_it(point: str) -> None:
        if point == "after the store commit":
            place.advance(hours=1)
            purged.append(retain(place, kept_for(radar, 3)))

    object.__setattr__(place.rails, "at", purge_under_it)
    report = ingest_partition(place.rails, radar, key, owner="sleeper")

    assert key in [p.partition for p in purged[0].done]
    assert report.published == 0
    assert "another worker took the lease" in report.errors[0]
    assert live_days(place, radar) == [0, 1, 2]

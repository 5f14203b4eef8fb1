"""What checks and status say of a ledger and a store that were really filled."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from ingest_platform.pages.verdict import Verdict
from ingest_platform.weather import summary
from ingest_platform.weather.model import Model
from ingest_platform.weather.status import status_of
from ingest_platform_tests.weather_world import CYCLE, TEMPERATURES, World, pocket, shipped

LEADS = (0, 1, 3)


@pytest.fixture
def gfs() -> Model:
    return pocket("gfs")


def verdicts(place: World, model: Model) -> Mapping[str, Verdict]:
    return summary.verdicts(place.catalog, place.rails.store, model, place.at)


def put_leads(place: World, model: Model) -> None:
    for lead in LEADS:
        place.put_lead(model, lead)


@pytest.mark.case(12)
def test_the_checks_speak_of_what_was_published(place: World, gfs: Model) -> None:
    """Else a hole in a forecast, or a parameter that never came, would pass for whole."""
    put_leads(place, gfs)
    place.ingest(gfs)
    place.advance(hours=12)

    told = verdicts(place, gfs.model_copy(update={"parameters": shipped("gfs").parameters}))

    whole = len(gfs.expected_leads(CYCLE))
    assert not told["completeness"].passed
    share = f"{len(LEADS)}/{whole} ({100 * len(LEADS) / whole:.1f} %)"
    assert told["completeness"].facts["2026-11-20T06"] == share
    assert "[2, 4, 5" in told["completeness"].message
    assert not told["parameters_seen"].passed
    never_seen = told["parameters_seen"].message.removeprefix("configured but never seen: ").split(". ")[0]
    assert set(never_seen.split(", ")) == {p.name for p in shipped("gfs").parameters} - set(TEMPERATURES)
    assert told["value_range"].passed
    assert told["catalog_store"].passed


@pytest.mark.case(34)
def test_a_source_is_as_old_as_its_newest_grid_even_below_retention(place: World, gfs: Model) -> None:
    """Else a source that fell silent for longer than its retention would look like a new one."""
    put_leads(place, gfs)
    place.ingest(gfs)
    before = verdicts(place, gfs)["source_stale"]
    place.advance(hours=gfs.retention_hours + 24)

    after = verdicts(place, gfs)

    assert before.passed
    assert not after["source_stale"].passed
    assert "2026-11-20T06:00:00Z" in after["source_stale"].message
    assert after["value_range"].message == "nothing is published yet"


def test_before_the_first_listing_no_check_fails(place: World, gfs: Model) -> None:
    """A new installation must not begin with alarms."""
    assert all(verdict.passed for verdict in verdicts(place, gfs).values())
    assert status_of(place.catalog, gfs, place.at).completeness == ""


def test_what_a_run_counts_is_what_the_ledger_counts(place: World) -> None:
    """Else a materialization and the check beside it would tell two completenesses."""
    mrms = shipped("mrms")
    for minute in (50, 52, 54):
        place.put_radar(mrms, place.at - timedelta(minutes=60 - minute))
    place.ingest(mrms)
    hour = mrms.partition_key(place.at - timedelta(minutes=10))
    live = place.catalog.published(mrms.source_name, hour)
    assert live is not None

    from_rows = summary.counted(mrms, hour, live.artifacts)
    (counted,) = place.catalog.coverage(mrms.source_name, partition=hour)

    facts = ("partition", "event_end", "leads", "grids", "times", "newest")
    assert counted.times == {mrms.parameters[0].name: 3}
    assert [getattr(from_rows, name) for name in facts] == [getattr(counted, name) for name in facts]


@pytest.mark.parametrize("setting", [{}, {"poll_interval": 7}])
def test_the_next_poll_is_when_the_sensor_will_list(
    place: World, gfs: Model, setting: dict[str, Any]
) -> None:
    """Else `ingest status` would promise a listing that POLL_INTERVAL has put off."""
    place.put_lead(gfs, 0)
    place.poll(gfs)

    status = status_of(place.catalog, gfs, place.at, **setting)

    assert status.next_poll == place.at + timedelta(
        seconds=setting.get("poll_interval", gfs.poll_interval_seconds)
    )


def test_a_cycle_that_has_only_begun_hides_no_lag(place: World, gfs: Model) -> None:
    """The lag is that of the data that readers can open, not of what was merely seen."""
    put_leads(place, gfs)
    place.ingest(gfs)
    place.put_lead(gfs, 0, cycle=CYCLE + timedelta(hours=6))
    place.poll(gfs)

    status = status_of(place.catalog, gfs, place.at)

    assert status.lag_seconds == (place.at - CYCLE).total_seconds()
    assert status.completeness.startswith("2026-11-20T12 0/")
    assert (status.waiting, status.quarantined) == (1, 0)

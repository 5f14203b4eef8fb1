"""What follows from a model's settings: leads, partitions, deadlines."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ingest_platform.weather.config import load_models
from ingest_platform.weather.model import LeadRange, Model, Source

MODELS = {model.id: model for model in load_models()}
MOMENTS = st.timedeltas(timedelta(0), timedelta(days=15 * 366)).map(datetime(2020, 1, 1, tzinfo=UTC).__add__)


@pytest.mark.case(4)
@pytest.mark.parametrize("hour", range(24))
def test_hrrr_runs_to_48_hours_four_times_a_day_and_to_18_otherwise(hour: int) -> None:
    """Else a complete cycle looks a third done, or 30 leads that never come are waited for."""
    leads = MODELS["hrrr"].expected_leads(datetime(2026, 7, 18, hour, tzinfo=UTC))

    assert leads == tuple(range(49 if hour in (0, 6, 12, 18) else 19))


@pytest.mark.case(4)
def test_nineteen_leads_complete_the_05z_cycle_and_not_the_06z_cycle() -> None:
    """Else the completeness check is green too early or red for ever."""
    share = {
        hour: 19 / len(MODELS["hrrr"].expected_leads(datetime(2026, 7, 18, hour, tzinfo=UTC)))
        for hour in (5, 6)
    }

    assert share[5] == 1
    assert f"{share[6]:.1%}" == "38.8%"


def test_gfs_is_hourly_to_five_days_and_three_hourly_to_sixteen() -> None:
    """Else the hourly part of the forecast is skipped, or 113 leads that do not exist are missed."""
    leads = MODELS["gfs"].expected_leads(datetime(2026, 7, 18, 12, tzinfo=UTC))

    assert len(leads) == 209
    assert leads == tuple(sorted(leads))
    assert leads[118:124] == (118, 119, 120, 123, 126, 129)
    assert leads[-1] == 384
    assert MODELS["gfs"].expected_leads(datetime(2026, 7, 18, 13, tzinfo=UTC)) == ()


@given(moment=MOMENTS, model=st.sampled_from([*MODELS.values()]))
def test_every_moment_lies_in_the_partition_it_is_given(moment: datetime, model: Model) -> None:
    """Else retention takes an observation before its time, or never."""
    key = model.partition_key(moment)

    assert model.partition_start(key) <= moment < model.partition_end(key)
    assert model.partition_key(model.partition_start(key)) == key
    assert model.partition_end(key) - model.partition_start(key) == timedelta(hours=model.partition_hours)


@pytest.mark.case(34)
@given(moment=MOMENTS)
def test_each_scan_comes_from_one_satellite(moment: datetime) -> None:
    """Else the dead satellite is polled for ever, or one scan exists twice."""
    buckets = [source.bucket for source in MODELS["goes_east"].sources_at(moment)]

    switch = datetime(2025, 4, 7, 15, tzinfo=UTC)
    assert buckets == (["noaa-goes16"] if moment < switch else ["noaa-goes19"])


def test_ranges_that_hold_nothing_are_refused() -> None:
    """Else a slip of the pen is a source or a lead that never comes."""
    now = datetime(2026, 7, 18, tzinfo=UTC)

    with pytest.raises(ValidationError, match="last 3 is before first 6"):
        LeadRange(first=6, last=3)
    with pytest.raises(ValidationError, match="is not after since"):
        Source(since=now, until=now, bucket="b", key="k")

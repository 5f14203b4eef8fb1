"""The checks' verdicts, from counts as the ledger gives them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.catalog.model import Coverage
from ingest_platform.weather.checks import (
    ReadBack,
    catalog_store,
    completeness,
    completeness_of,
    parameters_seen,
    source_stale,
    value_range,
)
from ingest_platform.weather.config import load_models

MODELS = {model.id: model for model in load_models()}
GFS, HRRR, MRMS, GOES = (MODELS[name] for name in ("gfs", "hrrr", "mrms", "goes_east"))
GFS_LEADS = GFS.expected_leads(datetime(2026, 11, 20, 6, tzinfo=UTC))
MIDDAY = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def found(
    partition: str = "2026-11-20T06",
    *,
    leads: Iterable[int] = (),
    times: Mapping[str, int] | None = None,
    variables: Iterable[str] = (),
) -> Coverage:
    """What the ledger counts: lead hours, observations by variable, or only variables."""
    return Coverage(
        partition=partition,
        event_end=MIDDAY,
        snapshot="s1",
        leads={3600 * hour: 1 for hour in leads},
        grids=times or dict.fromkeys(variables, 1),
        times=times or {},
        newest=None,
    )


@pytest.mark.case(4)
@pytest.mark.parametrize(("cycle", "expected", "percent"), [("05", 19, 100.0), ("06", 49, 38.8)])
def test_hrrr_is_whole_at_19_leads_or_at_49_by_its_cycle(cycle: str, expected: int, percent: float) -> None:
    """Else a third of a long cycle passes for whole, or every short one is red for ever."""
    state = completeness_of(HRRR, found(f"2026-11-20T{cycle}", leads=range(19)), MIDDAY)

    assert (state.live, state.expected) == (19, expected)
    assert round(state.percent, 1) == percent


@pytest.mark.case(12)
def test_a_gap_is_named_after_the_deadline_and_only_then() -> None:
    """An operator who is told before is told nothing; who is not told what is missing has to search."""
    cycle = [found(leads=(h for h in GFS_LEADS if h != 7))]
    deadline = datetime(2026, 11, 20, 6, tzinfo=UTC) + GFS.complete_after_minutes * MINUTE

    before = completeness(GFS, cycle, deadline)
    after = completeness(GFS, cycle, deadline + MINUTE)

    assert before.passed
    assert not after.passed
    assert after.severe
    assert "2026-11-20T06: [7] missing" in after.message


@pytest.mark.case(12)
def test_a_gap_that_closes_heals_the_check() -> None:
    """A late lead needs no hand: the next verdict is green."""
    deadline = datetime(2026, 11, 20, 6, tzinfo=UTC) + GFS.complete_after_minutes * MINUTE
    assert completeness(GFS, [found(leads=GFS_LEADS)], deadline + MINUTE).passed


@pytest.mark.case(12)
def test_a_cycle_of_which_nothing_ever_came_is_missed() -> None:
    """Else the worst gap is the only one that nobody is told of: it has no row."""
    around = [found(leads=GFS_LEADS), found("2026-11-20T18", leads=GFS_LEADS)]
    deadline = datetime(2026, 11, 20, 18, tzinfo=UTC) + GFS.complete_after_minutes * MINUTE

    verdict = completeness(GFS, around, deadline + MINUTE)

    assert not verdict.passed
    assert verdict.message.startswith("2026-11-20T12: [0, 1, 2,")


@given(st.sets(st.sampled_from(GFS_LEADS), min_size=1))
def test_exactly_the_missing_leads_are_named(gone: set[int]) -> None:
    """One too many sends people after what is there, one too few hides a hole in a forecast."""
    cycle = found(leads=(h for h in GFS_LEADS if h not in gone))

    state = completeness_of(GFS, cycle, MIDDAY + 20 * HOUR)

    assert state.missing == tuple(sorted(gone))
    assert state.live + len(gone) == state.expected == len(GFS_LEADS)


def test_a_partition_without_any_grid_is_missing_everything() -> None:
    """Nothing published must not divide by nothing, nor look whole."""
    state = completeness_of(GFS, found(), MIDDAY + 20 * HOUR)

    assert (state.live, state.percent, state.overdue) == (0, 0.0, True)


def test_an_hour_of_radar_with_a_scan_less_is_a_remark() -> None:
    """Radar drops a scan on most days: an alarm for each would teach people to look away."""
    hour = found("2026-11-20T12", times={"reflectivity_composite": 30, "precipitation_rate": 29})

    verdict = completeness(MRMS, [hour], MIDDAY + (MRMS.complete_after_minutes + 1) * MINUTE)

    assert (verdict.passed, verdict.severe) == (False, False)
    assert "['precipitation_rate'] missing" in verdict.message
    assert "2026-11-20T12" in verdict.facts


@pytest.mark.case(16)
def test_a_configured_parameter_that_no_grid_has_is_a_warning() -> None:
    """PRMSL does not exist in HRRR: whoever configures it must hear so, while all else goes on."""
    cycle = found(variables=(p.name for p in HRRR.parameters[1:]))

    verdict = parameters_seen(HRRR, [cycle])

    assert (verdict.passed, verdict.severe) == (False, False)
    assert f"configured but never seen: {HRRR.parameters[0].name}" in verdict.message
    assert "hrrr.yaml" in verdict.message


@pytest.mark.case(16)
def test_a_parameter_seen_in_any_partition_is_seen() -> None:
    """Accumulations are absent at lead 0: a cycle that has just begun is no wrong configuration."""
    whole = found("2026-11-20T05", variables=(p.name for p in HRRR.parameters))
    early = found(variables=(p.name for p in HRRR.parameters if not p.not_at_lead_zero))

    assert parameters_seen(HRRR, [whole, early]).passed


@pytest.mark.parametrize("partitions", [[], [found()]])
def test_before_the_first_grid_no_parameter_is_missed(partitions: Sequence[Coverage]) -> None:
    """A new installation must not begin with warnings about its configuration."""
    assert parameters_seen(HRRR, partitions).passed


@pytest.mark.case(34)
@given(st.timedeltas(timedelta(0), timedelta(days=2)))
def test_a_source_is_stale_after_three_cadences_and_its_delay(age: timedelta) -> None:
    """GOES-16 ended on an afternoon: who reads a dead bucket must be told the same hour."""
    verdict = source_stale(GOES, MIDDAY - age, MIDDAY)

    limit = 3 * 5 * MINUTE + GOES.delay_minutes * MINUTE
    assert verdict.passed == (age <= limit)
    assert ("Look whether goes_east's source moved" in verdict.message) == (age > limit)


@pytest.mark.case(34)
def test_a_source_without_any_object_yet_is_not_stale() -> None:
    """The first listing may be minutes away."""
    assert source_stale(GOES, None, MIDDAY).passed


def back(**changes: Any) -> ReadBack:
    """One plausible grid as it was read back, with changes."""
    plausible: dict[str, Any] = {
        "variable": "temperature_2m",
        "level": "2 m above ground",
        "lowest": 220.0,
        "highest": 310.0,
        "missing_share": 0.0,
        "checksum_holds": True,
    }
    return ReadBack(**{**plausible, **changes})


def test_plausible_values_pass_with_their_numbers() -> None:
    """A green check that shows numbers can be believed."""
    verdict = value_range(GFS, [back()])

    assert verdict.passed
    assert verdict.facts == {"temperature_2m 2 m above ground": "220 … 310, 0.0% missing"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"highest": 9999.0}, r"temperature_2m .*220 … 9999, possible"),
        ({"missing_share": 1.0, "lowest": float("nan"), "highest": float("nan")}, "100.00% missing"),
    ],
)
def test_impossible_or_absent_values_fail(changes: dict[str, float], told: str) -> None:
    """A sentinel that passed for a value, or a field of nothing, is a wrong map on somebody's wall."""
    verdict = value_range(GFS, [back(), back(**changes)])

    assert not verdict.passed
    assert re.search(told, verdict.message)


def test_a_dry_map_passes() -> None:
    """Radar without an echo is weather, not a fault."""
    dry = back(variable="reflectivity_composite", lowest=5.0, highest=20.0, missing_share=0.99)

    assert value_range(MRMS, [dry]).passed


def test_bytes_that_differ_from_the_ledger_fail_and_name_the_remedy() -> None:
    """Silent damage of the store is found by nobody else."""
    assert catalog_store([back()]).passed

    verdict = catalog_store([back(), back(checksum_holds=False)])

    assert not verdict.passed
    assert "temperature_2m (2 m above ground)" in verdict.message
    assert "Run reconcile" in verdict.message

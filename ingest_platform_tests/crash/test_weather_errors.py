"""Errors instead of deaths: the worker lives, the step failed, or it succeeded and its answer was lost."""

import pytest
from sqlalchemy.exc import OperationalError

from ingest_platform.catalog.claim import MAX_ATTEMPTS
from ingest_platform.errors import StoreUnavailable
from ingest_platform_tests.crash.weather_scene import Scene, View
from ingest_platform_tests.crash.weather_worker import Interrupted, database_error, raising_at

LEDGER = [
    f"{verb}: {side} COMMIT"
    for verb in ("see", "keep_cursor", "request", "claim", "commit")
    for side in ("before", "after")
]
STORE = ["after create", "after create_branch", "after chunks", "after the store commit"]
ANYWHERE = ["after list", "after claim", "read", "after commit", "before the materialization"]


@pytest.mark.case(21)
@pytest.mark.case(30)
@pytest.mark.parametrize("point", LEDGER)
def test_an_error_of_the_ledger_before_or_after_its_effect_heals(
    point: str, grown: Scene, published_before: View, clean_grown: View
) -> None:
    """Else a commit whose answer was lost is cleaned up after, or done twice."""
    with pytest.raises(OperationalError):
        grown.work(raising_at(point, database_error))
    seen = grown.look()
    grown.rescue()

    landed = point == "commit: after COMMIT"
    assert seen.published == (clean_grown if landed else published_before).published
    grown.check_healed(clean_grown)


@pytest.mark.case(21)
@pytest.mark.parametrize("point", STORE)
def test_an_error_of_the_store_heals_and_costs_no_attempt(
    point: str, grown: Scene, published_before: View, clean_grown: View
) -> None:
    """Else an outage of our own store puts good objects into quarantine."""
    for hours_ahead in range(MAX_ATTEMPTS):
        with pytest.raises(StoreUnavailable):
            grown.work(raising_at(point, StoreUnavailable), hours_ahead=hours_ahead)
        assert grown.look().published == published_before.published
    grown.rescue(MAX_ATTEMPTS)

    grown.check_healed(clean_grown)


@pytest.mark.case(21)
@pytest.mark.parametrize("point", ANYWHERE)
def test_an_unforeseen_error_heals(
    point: str, grown: Scene, published_before: View, clean_grown: View
) -> None:
    """Else a mistake in our own code leaves a partition that nobody may touch."""
    with pytest.raises(Interrupted):
        grown.work(raising_at(point))
    seen = grown.look()
    grown.rescue()

    assert seen.published in [published_before.published, clean_grown.published]
    grown.check_healed(clean_grown)


@pytest.mark.case(21)
@pytest.mark.parametrize("point", ["fail: before COMMIT", "fail: after COMMIT", "inside fail"])
def test_an_error_inside_fail_heals(point: str, grown: Scene, clean_grown: View) -> None:
    """Else the second error of a bad minute is the one that nothing heals."""
    first, second = raising_at("after chunks"), raising_at(point, database_error)

    def both(passed: str) -> None:
        first(passed)
        second(passed)

    with pytest.raises((Interrupted, OperationalError)):
        grown.work(both)
    grown.rescue()

    grown.check_healed(clean_grown)

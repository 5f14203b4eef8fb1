"""What an import counts: how it ended, what stopped it, what it cost."""

import pytest
from sqlalchemy.exc import OperationalError

from ingest_platform import errors
from ingest_platform.catalog.model import Failed, Outcome, Postponed, SourceObject
from ingest_platform.silo.engines.contract import EngineRefused, EngineTimedOut
from ingest_platform.silo.tally import Cost, committed, handed_back, reason_of
from ingest_platform_tests.silo_station import NOON

COST = Cost(seconds=2.5, engine_seconds=1.5, loaded_bytes=100)
RELEASE = SourceObject(1, "http://backend/ebola", "ebola/get-released-data", '"e1"', 0, NOON, "ebola", 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.SourceUnavailable("503"), "source"),
        (errors.SourceChanged("412"), "source"),
        (errors.Incomplete("no definition yet"), "lineages"),
        (errors.Damaged("a byte too many"), "release"),
        (EngineRefused("exit 1", ""), "engine"),
        (EngineTimedOut("killed", ""), "engine"),
        (errors.StoreUnavailable("full"), "store"),
        (OSError(28, "no space"), "store"),
        (MemoryError(), "store"),
        (OperationalError("COMMIT", {}, Exception("away")), "ledger"),
        (errors.PermanentError("no such engine"), "settings"),
        (KeyboardInterrupt(), "other"),
        (ZeroDivisionError(), "other"),
    ],
)
def test_every_error_names_who_must_act(error: BaseException, reason: str) -> None:
    """Else the one who is woken is the wrong one."""
    assert reason_of(error) == reason


@pytest.mark.parametrize(
    ("outcomes", "status", "reason"),
    [
        ([Postponed(RELEASE, "x")], "postponed", "release"),
        ([Failed(RELEASE, "x")], "failed", "release"),
        ([Failed(RELEASE, "x", permanent=True)], "failed", "rows_lost"),
        ([], "failed", "release"),  # the attempt is used
    ],
)
def test_an_import_without_a_commit_counts_once_by_status_and_by_reason(
    outcomes: list[Outcome], status: str, reason: str
) -> None:
    """Two counts of one failure would be an outage on the dashboard."""
    moved = handed_back("ebola", errors.Damaged("x"), outcomes, COST)

    ended = {name: dict(labels) for (name, labels) in moved if "status" in dict(labels)}
    stopped = {name: dict(labels) for (name, labels) in moved if "reason" in dict(labels)}
    assert ended == {"silo_imports_total": {"organism": "ebola", "status": status}}
    assert stopped == {"silo_import_failures_total": {"organism": "ebola", "reason": reason}}


def test_a_commit_counts_what_it_cost() -> None:
    """The time and the traffic are what a person can tune."""
    assert {
        (name, *dict(labels).values()): amount
        for (name, labels), amount in committed("ebola", "unchanged", COST).items()
    } == {
        ("silo_imports_total", "ebola", "unchanged"): 1,
        ("silo_import_seconds_total", "ebola"): 2.5,
        ("silo_engine_seconds_total", "ebola"): 1.5,
        ("silo_downloaded_bytes_total", "ebola"): 100,
    }

"""Which of Dagster's runs may go."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.operations.history import PastRun, obsolete

NOW = datetime(2026, 11, 21, tzinfo=UTC)
KEEP = timedelta(days=30)

histories = st.lists(
    st.builds(
        PastRun,
        run_id=st.uuids().map(str),
        job=st.sampled_from(["ingest_mrms", "ingest_gfs", "purge"]),
        created_at=st.integers(0, 90).map(lambda days: NOW - timedelta(days=days)),
        final=st.booleans(),
    ),
    unique_by=lambda run: run.run_id,
)


def run(name: str, age_days: float, *, job: str = "ingest_mrms", final: bool = True) -> PastRun:
    return PastRun(name, job, NOW - timedelta(days=age_days), final)


@given(histories)
def test_what_is_young_unfinished_or_the_latest_of_its_job_stays(runs: list[PastRun]) -> None:
    """Else a run disappears under its own feet, or a job looks as if it had never run."""
    gone = set(obsolete(runs, now=NOW, keep=KEEP))

    kept = [past for past in runs if past.run_id not in gone]
    assert {past.job for past in kept} == {past.job for past in runs}
    assert all(past.final and past.created_at < NOW - KEEP for past in runs if past.run_id in gone)


@given(histories)
def test_all_the_rest_goes_and_a_second_look_finds_nothing(runs: list[PastRun]) -> None:
    """Else the event log grows after all."""
    gone = set(obsolete(runs, now=NOW, keep=KEEP))

    kept = [past for past in runs if past.run_id not in gone]
    assert obsolete(kept, now=NOW, keep=KEEP) == ()
    old = [past for past in kept if past.final and past.created_at < NOW - KEEP]
    assert len({past.job for past in old}) == len(old)


def test_the_oldest_goes_first_and_the_boundary_stays() -> None:
    """Else a pass that is cut short leaves holes, and a month is a day less than it says."""
    runs = [run("newest", 1), run("boundary", 30), run("b", 31), run("a", 60), run("runs", 70, final=False)]

    assert obsolete(runs, now=NOW, keep=KEEP) == ("a", "b")


def test_a_run_listed_twice_is_one_run() -> None:
    """The latest of a job is read on its own, too."""
    only = run("only", 90)

    assert obsolete([only, only], now=NOW, keep=KEEP) == ()

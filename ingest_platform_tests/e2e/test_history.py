"""Dagster's history is retained on real instances, SQLite and PostgreSQL: rows, files and printed output."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml

from ingest_platform.operations import history
from ingest_platform.operations.history import KEEP, Forgotten, retain

PARTITIONS = dg.StaticPartitionsDefinition([f"2026-11-21T{hour:02}" for hour in range(6)])
KEY = dg.AssetKey(["weather", "mrms", "grids"])
# SQLite's rows are dated to the second.
LATER = timedelta(seconds=2)


@dg.asset(key=KEY, partitions_def=PARTITIONS)
def grids(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    print("ingested")  # noqa: T201
    return dg.MaterializeResult(metadata={"objects": 1})


@dg.asset_check(asset=grids)
def complete() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.op
def tidy() -> None:
    print("tidied")  # noqa: T201


@dg.job(executor_def=dg.in_process_executor)
def purge() -> None:
    tidy()


INGEST = dg.define_asset_job("ingest", dg.AssetSelection.assets(grids), executor_def=dg.in_process_executor)
DEFS = dg.Definitions(assets=[grids], asset_checks=[complete], jobs=[INGEST, purge])


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """DAGSTER_HOME of an empty instance."""
    config: dict[str, object] = {"telemetry": {"enabled": False}}
    if request.param == "postgresql":
        database = sa.make_url(request.getfixturevalue("fresh_database"))
        plain = {"username": database.username, "password": database.password or "trusted"}
        where = {"hostname": database.host, "port": database.port, "db_name": database.database}
        config["storage"] = {"postgres": {"postgres_db": {"scheme": "postgresql+psycopg2", **plain, **where}}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


def ingest(instance: dg.DagsterInstance, *hours: int) -> list[str]:
    """A run for each hour, through the job as the sensor starts it. Their ids."""
    job = DEFS.resolve_job_def("ingest")
    return [
        job.execute_in_process(instance=instance, partition_key=PARTITIONS.get_partition_keys()[hour]).run_id
        for hour in hours
    ]


def tidy_up(instance: dg.DagsterInstance) -> str:
    return DEFS.resolve_job_def("purge").execute_in_process(instance=instance).run_id


def report(instance: dg.DagsterInstance, *hours: int) -> None:
    """As `ingest run` does it: a materialization of no run."""
    for hour in hours:
        partition = PARTITIONS.get_partition_keys()[hour]
        instance.report_runless_asset_event(
            dg.AssetMaterialization(KEY, partition=partition, tags={"dagster/data_version": f"{hour}"})
        )


def retained(instance: dg.DagsterInstance, now: datetime) -> Forgotten:
    return retain(instance, of_job=lambda name: dg.RunsFilter(job_name=name), now=now)


def rows(instance: dg.DagsterInstance, statement: str) -> int:
    """A count over the event log's tables."""
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        return int(connection.execute(sa.text(statement)).scalar_one())


def run_rows(instance: dg.DagsterInstance, statement: str) -> int:
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        return int(connection.execute(sa.text(statement)).scalar_one())


def run_ids(instance: dg.DagsterInstance) -> set[str]:
    return {record.dagster_run.run_id for record in instance.get_run_records()}


def traces(home: Path, run_id: str) -> list[str]:
    """Files that are named for the run, or lie in a folder that is."""
    return [str(path) for path in home.rglob("*") if run_id in str(path) and path.is_file()]


def test_old_runs_go_with_all_they_left_and_young_ones_keep_it(
    home: Path, instance: dg.DagsterInstance
) -> None:
    """Else a year of radar is a disk full of what nobody looks at, or this morning's run is gone."""
    from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

    def shown() -> set[str]:
        """What the partition page shows as made; it caches."""
        cached = get_and_update_asset_status_cache_value(instance, KEY, PARTITIONS)
        assert cached is not None
        return set(cached.deserialize_materialized_partition_subsets(PARTITIONS).get_partition_keys())

    old = ingest(instance, 0, 1)
    boundary = datetime.now(UTC) + timedelta(seconds=1)
    time.sleep(1.5)  # SQLite's rows are dated to the second
    young = ingest(instance, 2)
    had = [traces(home, run_id) for run_id in old]
    before = (shown(), retained(instance, datetime.now(UTC)), run_ids(instance))
    forgotten = retained(instance, boundary + KEEP)

    keys = PARTITIONS.get_partition_keys()
    assert before == (set(keys[:3]), Forgotten(0, 0, 0, before[1].seconds), {*old, *young})
    assert all(had)
    assert (forgotten.runs, forgotten.check_results) == (2, 2)
    assert run_ids(instance) == set(young)
    assert [traces(home, run_id) for run_id in old] == [[], []]
    assert rows(instance, "SELECT COUNT(DISTINCT run_id) FROM event_logs") == 1
    assert run_rows(instance, "SELECT COUNT(DISTINCT run_id) FROM run_tags") == 1
    assert shown() == instance.get_materialized_partitions(KEY) == {keys[2]}
    (summary,) = instance.event_log_storage.get_asset_check_summary_records([complete.check_key]).values()
    assert summary.last_check_execution_record is not None


def test_the_latest_run_of_each_job_and_what_still_runs_stay(instance: dg.DagsterInstance) -> None:
    """Else a job that runs once a quarter looks as if it never had; or a run loses its row while it works."""
    made = tidy_up(instance)
    (ingested,) = ingest(instance, 0)
    stuck = instance.create_run_for_job(purge, status=dg.DagsterRunStatus.STARTED).run_id
    latest = tidy_up(instance)

    forgotten = retained(instance, datetime.now(UTC) + LATER + KEEP)

    assert forgotten.runs == 1
    assert run_ids(instance) == {ingested, stuck, latest}
    assert made not in run_ids(instance)


def test_events_of_no_run_go_too_but_the_latest(instance: dg.DagsterInstance) -> None:
    """Else `ingest run`, which reports one a minute, fills the log; or the asset looks never made."""
    report(instance, 0, 1, 2, 3)
    boundary = datetime.now(UTC)
    report(instance, 4)

    first = retained(instance, boundary + KEEP)
    remaining = instance.get_materialized_partitions(KEY)
    second = retained(instance, datetime.now(UTC) + LATER + KEEP)
    latest = instance.get_latest_materialization_event(KEY)

    keys = PARTITIONS.get_partition_keys()
    assert (first.events, second.events) == (4, 0)
    assert remaining == {keys[4]}
    assert latest is not None
    assert latest.asset_materialization is not None
    assert latest.asset_materialization.partition == keys[4]
    assert rows(instance, "SELECT COUNT(*) FROM asset_event_tags") == 1
    with instance.event_log_storage.run_connection("") as connection:  # type: ignore[attr-defined]
        runless = connection.execute(sa.text("SELECT COUNT(*) FROM event_logs WHERE run_id = ''"))
        assert runless.scalar_one() == 1  # SQLite keeps a copy of its own


def test_a_retention_that_dies_is_finished_by_the_next(
    home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else events stay whose run nobody lists any more."""
    monkeypatch.setattr(history, "RUNS_PER_PAGE", 2)
    old = [tidy_up(instance) for _ in range(4)]
    later = datetime.now(UTC) + LATER + KEEP

    class Died(Exception):
        pass

    def die(_: str) -> None:
        raise Died

    with pytest.raises(Died):
        retain(instance, of_job=lambda name: dg.RunsFilter(job_name=name), now=later, at=die)
    instance.event_log_storage.delete_events(old[1])  # as if it had died within the second run
    after_death = run_ids(instance)
    finished = retained(instance, later)

    assert after_death == set(old[1:])
    assert finished.runs == 2
    assert run_ids(instance) == {old[3]}
    assert [traces(home, run_id) for run_id in old[:3]] == [[], [], []]

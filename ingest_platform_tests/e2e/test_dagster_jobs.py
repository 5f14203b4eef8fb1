"""Jobs and sensors in a running Dagster: what is launched is ingested once, what fails says why and rests."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import TickStatus
from dagster_graphql import DagsterGraphQLClient

from ingest_platform.resources import resources
from ingest_platform.weather.defs import definitions
from ingest_platform_tests.e2e.conftest import Platform
from ingest_platform_tests.e2e.dagster_instance import call, launch

MODELS = ("gfs", "hrrr", "goes_east", "goes_west", "mrms")


@pytest.fixture(scope="module")
def launched(platform: Platform) -> dict[str, str]:
    """Model → the run of its old partition, launched by the command line as the README says."""
    with ThreadPoolExecutor(2) as launches:
        runs = launches.map(
            lambda model: launch(platform.place, f"ingest_{model}", platform.old[0][model]), MODELS
        )
        return dict(zip(MODELS, runs, strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_a_launched_job_ingests_its_partition(
    model: str, launched: dict[str, str], platform: Platform
) -> None:
    """The one command line that reaches the scaled engine: schedulers elsewhere rely on it."""
    partition = platform.old[0][model]

    run = platform.dagster.finished(launched[model])

    assert run.status is dg.DagsterRunStatus.SUCCESS
    with platform.place.catalog() as catalog, platform.dagster.instance() as instance:
        live = catalog.published(f"weather.{model}", partition)
        told = instance.get_materialized_partitions(dg.AssetKey(["weather", model, "grids"]))
    assert live is not None
    assert live.artifacts
    assert partition in told


def test_a_job_that_does_not_exist_is_refused(platform: Platform) -> None:
    """A typo in a crontab must not look like a queued run."""
    arguments = ["job", "launch", "-w", "workspace.yaml", "-j", "ingest_gsf"]

    refused = call(platform.place, "dagster", *arguments)

    assert refused.returncode != 0
    assert "ingest_gsf" in refused.stderr


@pytest.mark.case(33)
def test_one_run_a_model_and_radar_waits_for_no_forecast(
    launched: dict[str, str], platform: Platform
) -> None:
    """Else two runs of one cycle fight for its lease, or radar is stale while a forecast is worked off."""
    for run_id in launched.values():
        platform.dagster.finished(run_id)
    port = int(platform.dagster.url.rsplit(":", 1)[1])
    client = DagsterGraphQLClient("127.0.0.1", port_number=port)

    first, second, radar = (
        client.submit_job_execution(f"ingest_{model}", tags={"dagster/partition": partition})
        for model, partition in [
            ("gfs", platform.old[0]["gfs"]),
            ("gfs", platform.old[1]["gfs"]),
            ("mrms", platform.old[0]["mrms"]),
        ]
    )

    for run_id in (first, second, radar):
        assert platform.dagster.finished(run_id).status is dg.DagsterRunStatus.SUCCESS
    with platform.dagster.instance() as instance:
        began, ended = {}, {}
        for run_id in (first, second, radar):
            record = instance.get_run_record_by_id(run_id)
            assert record is not None
            began[run_id], ended[run_id] = record.start_time or 0.0, record.end_time or 0.0
    assert ended[first] <= began[second] or ended[second] <= began[first]
    assert began[radar] < max(began[first], began[second])


def test_every_model_has_a_pool_of_its_own() -> None:
    """A pool that two models share would let the slower hold up the faster."""
    everything = dg.Definitions.merge(definitions({}), dg.Definitions(resources=resources()))
    repository = everything.get_repository_def()

    pools = {
        model: repository.assets_defs_by_key[dg.AssetKey(["weather", model, "grids"])].op.pool
        for model in MODELS
    }

    assert pools == {model: f"weather_{model}" for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_an_ingest_runs_no_checks_and_the_check_job_runs_them_all(model: str) -> None:
    """With each radar batch they would read back a sample of the grids, every two minutes."""
    everything = dg.Definitions.merge(definitions({}), dg.Definitions(resources=resources()))

    steps = {
        job: {node.name for node in everything.resolve_job_def(f"{job}_{model}").graph.nodes}
        for job in ("ingest", "check")
    }

    assert steps == {"ingest": {f"weather__{model}__grids"}, "check": {f"{model}_checks"}}


def test_a_permanent_error_ends_the_run_with_our_words_and_no_retry(platform: Platform) -> None:
    """A retried permanent error is a storm; one without our words costs an operator the evening."""
    marker = platform.place.home / "data" / "ledger-id"
    ours = marker.read_bytes()
    marker.write_bytes(b"another-ledger")

    try:
        run = platform.dagster.finished(launch(platform.place, "ingest_mrms", platform.old[0]["mrms"]))
        tick = platform.dagster.wait_for(lambda: failed_tick(platform), "a failed tick of mrms_sensor")
    finally:
        marker.write_bytes(ours)

    assert run.status is dg.DagsterRunStatus.FAILURE
    with platform.dagster.instance() as instance:
        # Dagster adds it a moment after the run has ended.
        decision = platform.dagster.wait_for(
            lambda: tags_of(instance, run.run_id).get("dagster/will_retry"),
            "Dagster's decision about a retry",
        )
        failures = [
            record.event_log_entry
            for record in instance.get_records_for_run(
                run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE
            ).records
        ]
        retries = instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY
        ).records
    assert decision == "false"
    assert len(failures) == 1
    assert "another-ledger" in str(failures[0].dagster_event)
    assert not retries
    assert "another-ledger" in tick


def tags_of(instance: dg.DagsterInstance, run_id: str) -> Mapping[str, str]:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.tags


def failed_tick(platform: Platform) -> str | None:
    """What Dagster keeps and shows of the newest failed tick of the radar's sensor."""
    with platform.dagster.instance() as instance:
        for state in instance.all_instigator_state():
            if state.origin.instigator_name == "mrms_sensor":
                failed = instance.get_ticks(
                    state.instigator_origin_id,
                    state.selector_id,
                    limit=1,
                    statuses=[TickStatus.FAILURE],
                )
                return failed[0].error.to_string() if failed and failed[0].error else None
    return None

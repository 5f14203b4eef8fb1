"""Failures of a real Dagster reach a real receiver: once, by name, and without our secrets."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster_shared.error import SerializableErrorInfo

from ingest_platform.operations.defs import definitions
from ingest_platform.operations.watch.alerts import Watch
from ingest_platform.operations.watch.defs import ALERTS, alert_sensors
from ingest_platform_tests.e2e.dagster_instance import RunningDagster, dagster_daemon
from ingest_platform_tests.e2e.place import Place
from ingest_platform_tests.webhook_receiver import SECRET, Receiver, receiver

# A code location of the test's own: it fails while a file lies there, and runs what another file asks for.
LOCATION = """
import os
from pathlib import Path

import dagster as dg

from ingest_platform.operations.watch.defs import alert_sensors

BROKEN, ASKED = Path(os.environ["BROKEN"]), Path(os.environ["ASKED"])

@dg.op
def work() -> None:
    if BROKEN.exists():
        raise dg.Failure(f"the store is full, said {os.environ['INGEST_ALERT_WEBHOOK']}")

@dg.job(executor_def=dg.in_process_executor)
def ingest_mrms():
    work()

@dg.sensor(minimum_interval_seconds=2, default_status=dg.DefaultSensorStatus.RUNNING)
def mrms_sensor():
    if BROKEN.exists():
        raise RuntimeError("the source is away")
    return dg.SkipReason("all is well")

@dg.sensor(job=ingest_mrms, minimum_interval_seconds=2, default_status=dg.DefaultSensorStatus.RUNNING)
def asker():
    return [dg.RunRequest(run_key=path.name) for path in ASKED.iterdir()]

defs = dg.Definitions(
    jobs=[ingest_mrms], sensors=[mrms_sensor, asker, *alert_sensors(os.environ, every_seconds=2)]
)
"""
FIRST_NEWS = {("failed", "mrms_sensor"), ("failed", "ingest_mrms")}
LAST_NEWS = {("recovered", "mrms_sensor"), ("recovered", "ingest_mrms")}


@dataclass(frozen=True, slots=True)
class Site:
    """A place with that location in it."""

    place: Place
    workspace: str
    broken: Path
    asked: Path

    def looks_once_more(self, running: RunningDagster) -> None:
        """Wait until the alert sensor has looked at all that happened until this moment."""
        begun = datetime.now(UTC)
        running.wait_for(lambda: self.looked_at(running) > begun, "another look of the alert sensor")

    def looked_at(self, running: RunningDagster) -> datetime:
        with running.instance() as instance:
            states = [s for s in instance.all_instigator_state() if s.instigator_name == ALERTS]
        data = states[0].instigator_data if states else None
        cursor = data.cursor if isinstance(data, SensorInstigatorData) else None
        return Watch.parse(cursor, datetime.now(UTC)).looked_at

    def failures(self, running: RunningDagster) -> tuple[int, int]:
        """How many ticks of the sensor and how many runs have failed so far."""
        with running.instance() as instance:
            runs = instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
            ticks = [
                tick
                for state in instance.all_instigator_state()
                if state.instigator_name == "mrms_sensor"
                for tick in instance.get_ticks(
                    state.instigator_origin_id, state.selector_id, statuses=[TickStatus.FAILURE]
                )
            ]
        return len(ticks), runs


@pytest.fixture
def told() -> Iterator[Receiver]:
    """A receiver that takes everything."""
    with receiver() as listening:
        yield listening


@pytest.fixture
def site(place: Place, told: Receiver) -> Site:
    """Nothing runs yet."""
    folder = place.home / "location"
    (folder / "asked").mkdir(parents=True)
    (folder / "location.py").write_text(LOCATION)
    (folder / "workspace.yaml").write_text("load_from: [{python_file: location.py}]")
    broken, asked = folder / "broken", folder / "asked"
    settings = {"INGEST_ALERT_WEBHOOK": told.url, "BROKEN": str(broken), "ASKED": str(asked)}
    return Site(place.with_settings(**settings), str(folder / "workspace.yaml"), broken, asked)


def test_what_goes_on_failing_is_told_once_and_its_recovery_once(site: Site, told: Receiver) -> None:
    """Through more failures and a restart of the daemon; else nobody reads the channel, or nobody is told."""
    site.broken.touch()
    (site.asked / "first").touch()
    with dagster_daemon(site.place, site.workspace) as running:
        running.wait_for(lambda: set(told.events) >= FIRST_NEWS, "the first news")
        ticks, runs = site.failures(running)
        (site.asked / "second").touch()
        running.wait_for(
            lambda: site.failures(running)[0] > ticks + 1 and site.failures(running)[1] > runs,
            "another failed run, two more failed ticks",
        )
        site.looks_once_more(running)
        assert sorted(told.events) == sorted(FIRST_NEWS)

    with dagster_daemon(site.place, site.workspace) as running:
        site.looks_once_more(running)
        assert sorted(told.events) == sorted(FIRST_NEWS)
        site.broken.unlink()
        (site.asked / "third").touch()
        running.wait_for(lambda: set(told.events) >= LAST_NEWS, "the last news")
        site.looks_once_more(running)

    assert sorted(told.events) == sorted(FIRST_NEWS | LAST_NEWS)
    texts = {message["name"]: message["text"] for message in told.came if message["event"] == "failed"}
    assert "the source is away" in texts["mrms_sensor"]
    assert "the store is full, said ***" in texts["ingest_mrms"]
    assert SECRET not in str(told.came)


@dataclass
class Looking:
    """The alert sensor over an instance that the test fills; its cursor goes from tick to tick."""

    instance: dg.DagsterInstance
    sensor: dg.SensorDefinition
    cursor: str | None = None

    def look(self) -> str:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = self.sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        assert isinstance(result.skip_reason, dg.SkipReason)
        return result.skip_reason.skip_message or ""

    def ticks(self, name: str, status: TickStatus, kind: InstigatorType = InstigatorType.SENSOR) -> None:
        """One tick of that name ended so, as the daemon writes it down."""
        origin = RemoteInstigatorOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("ingest_platform"), "__repository__"), name
        )
        data = ScheduleInstigatorData("10 */6 * * *") if kind is InstigatorType.SCHEDULE else None
        state = InstigatorState(origin, kind, InstigatorStatus.RUNNING, data)
        if self.instance.get_instigator_state(origin.get_id(), state.selector_id) is None:
            self.instance.add_instigator_state(state)
        self.instance.create_tick(
            TickData(
                instigator_origin_id=origin.get_id(),
                instigator_name=name,
                instigator_type=kind,
                status=status,
                timestamp=datetime.now(UTC).timestamp(),
                selector_id=state.selector_id,
                error=SerializableErrorInfo("the source is away\n", [], "OSError")
                if status is TickStatus.FAILURE
                else None,
                skip_reason="nothing is due" if status is TickStatus.SKIPPED else None,
            )
        )


@pytest.fixture
def looking(told: Receiver) -> Iterator[Looking]:
    """An empty instance on a disk of its own, and the alert sensor as the platform defines it."""
    environ = {"INGEST_ALERT_WEBHOOK": told.url, "INGEST_DAGSTER_URL": "https://dagster.example/"}
    [sensor] = alert_sensors(environ)
    with dg.instance_for_test() as instance:
        yield Looking(instance, sensor)


def run_of(instance: dg.DagsterInstance, succeeds: bool, tags: dict[str, str] | None = None) -> str:
    """Run the job `purge` to its end; the run's id."""

    @dg.op
    def purge_all() -> None:
        if not succeeds:
            raise dg.Failure("deleting was refused", allow_retries=False)

    @dg.job(name="purge", executor_def=dg.in_process_executor)
    def purge() -> None:
        purge_all()

    return purge.execute_in_process(instance=instance, raise_on_error=False, tags=tags).run_id


def test_an_alert_says_what_failed_where_and_why(looking: Looking, told: Receiver) -> None:
    """Else the reader has to search Dagster's pages before anything else."""
    decided = {"dagster/will_retry": "false", "dagster/partition": "2026-11-21T06"}
    run_id = run_of(looking.instance, False, decided)

    looking.look()

    [message] = told.came
    assert message["event"] == "failed"
    assert (message["kind"], message["name"]) == ("job", "purge")
    assert message["partition"] == "2026-11-21T06"
    assert message["message"] == "deleting was refused"
    assert message["link"] == f"https://dagster.example/runs/{run_id}"


def test_a_schedules_failed_tick_is_told_with_its_page(looking: Looking, told: Receiver) -> None:
    """A purge that is never started fails nowhere else."""
    looking.ticks("purge_six_hourly", TickStatus.FAILURE, InstigatorType.SCHEDULE)
    looking.look()
    looking.ticks("purge_six_hourly", TickStatus.SKIPPED, InstigatorType.SCHEDULE)
    looking.look()

    assert told.events == [("failed", "purge_six_hourly"), ("recovered", "purge_six_hourly")]
    page = "https://dagster.example/locations/ingest_platform/schedules/purge_six_hourly"
    assert told.came[0]["link"] == page


def test_the_alert_sensors_own_failure_is_not_told(looking: Looking, told: Receiver) -> None:
    """It would be told by the sensor that fails: about itself, at every tick, for ever."""
    looking.ticks(ALERTS, TickStatus.FAILURE)

    assert looking.look() == "nothing is failing"
    assert told.came == []


def test_a_failure_that_dagster_has_not_judged_waits(looking: Looking, told: Receiver) -> None:
    """A worker that was killed is replaced at once, and nobody needs to be told."""
    run_id = run_of(looking.instance, False)
    looking.look()
    assert told.came == []

    looking.instance.add_run_tags(run_id, {"dagster/will_retry": "false"})
    looking.look()

    assert told.events == [("failed", "purge")]


def test_a_run_from_an_assets_page_is_called_by_its_assets(looking: Looking, told: Receiver) -> None:
    """All such runs share one hidden job: a success of one asset would close the incident of another."""

    @dg.asset(key=["weather", "gfs", "grids"])
    def grids() -> None:
        return

    page = dg.Definitions(assets=[grids]).resolve_implicit_global_asset_job_def()
    run = looking.instance.create_run_for_job(
        page, asset_selection=frozenset([grids.key]), tags={"dagster/will_retry": "false"}
    )
    looking.instance.report_run_failed(run, "its worker was killed")

    looking.look()

    assert told.events == [("failed", "weather/gfs/grids")]
    assert told.came[0]["model"] == "gfs"
    assert told.came[0]["message"] == "its worker was killed"


def test_a_receiver_that_is_down_costs_no_tick_and_no_alert(looking: Looking, told: Receiver) -> None:
    """The tick must keep what it knows: a failed one would forget what was told."""
    told.answers = [500, 200]
    run_of(looking.instance, False, {"dagster/will_retry": "false"})

    assert "answered 500" in looking.look()
    assert looking.look() == "open: purge"

    assert told.events == [("failed", "purge")] * 2  # one refused, one taken
    assert SECRET not in (looking.cursor or "")


@pytest.mark.parametrize("environ", [{}, {"INGEST_ALERT_WEBHOOK": ""}])
def test_without_a_webhook_there_is_no_sensor(environ: dict[str, str]) -> None:
    """Else every installation ticks for nobody."""
    assert alert_sensors(environ) == []


def test_the_platform_has_the_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all of this is shown of something that nobody runs."""
    monkeypatch.setenv("INGEST_ALERT_WEBHOOK", "https://hooks.example/secret")

    assert ALERTS in {sensor.name for sensor in definitions().sensors or ()}

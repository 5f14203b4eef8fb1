"""A run whose machine is gone, in a real Dagster instance: it is ended, its pool is free again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.op_concurrency_limits_counter import GlobalOpConcurrencyLimitsCounter
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.tags import RUN_FAILURE_REASON_TAG
from sqlalchemy import literal

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Sighting
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.operations.watch.defs import end_ghosts, ghost_sensor
from ingest_platform.operations.watch.ghosts import CONFIRMED_AFTER, SILENCE, Suspects
from ingest_platform.resources import resources
from ingest_platform.weather.defs import definitions
from ingest_platform_tests.e2e.place import Place

SOURCES = {"ingest_gfs": "weather.gfs", "weather/gfs/grids": "weather.gfs"}
PARTITION = "2026-11-21T00"
LATER = SILENCE + timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Scene:
    """Dagster without a daemon, and the ledger that its runs work on."""

    instance: dg.DagsterInstance
    catalog: Catalog
    catalog_url: str

    def started(self, job: str = "ingest_gfs") -> dg.DagsterRun:
        """A run that its worker reported as started, and about which nothing was heard since."""
        run = self.created(job)
        for told in (dg.DagsterEventType.RUN_STARTING, dg.DagsterEventType.RUN_START):
            event = dg.DagsterEvent(event_type_value=told.value, job_name=job)
            self.instance.report_dagster_event(event, run.run_id)
        assert self.status(run) is dg.DagsterRunStatus.STARTED
        return run

    def created(self, job: str = "ingest_gfs") -> dg.DagsterRun:
        everything = dg.Definitions.merge(definitions({}), dg.Definitions(resources=resources()))
        return self.instance.create_run_for_job(
            everything.resolve_job_def(job), tags={"dagster/partition": PARTITION}
        )

    def claim(self, run: dg.DagsterRun, ago: timedelta = timedelta(0)) -> None:
        """The run took its partition so long ago, by the ledger's clock."""
        at = datetime.now(UTC) - ago
        seen = Sighting("noaa", "key", "etag", 1, at, PARTITION, at, "slot")
        with Catalog.open(self.catalog_url, now=lambda: literal(at, UtcTime())) as catalog:
            catalog.see("weather.gfs", [seen])
            assert catalog.claim("weather.gfs", PARTITION, owner=f"run {run.run_id}") is not None

    def status(self, run: dg.DagsterRun) -> dg.DagsterRunStatus:
        now = self.instance.get_run_by_id(run.run_id)
        assert now is not None
        return now.status

    def messages(self, run: dg.DagsterRun) -> list[str]:
        events = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
        return [str(entry.dagster_event and entry.dagster_event.message) for entry in events]

    def is_blocked(self, run: dg.DagsterRun) -> bool:
        """Whether Dagster's coordinator would let a run of the same pool wait: its own counter."""
        records = self.instance.get_run_records(dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES))
        storage = self.instance.event_log_storage
        # As the coordinator does when it meets a pool for the first time.
        storage.initialize_concurrency_limit_to_default("weather_gfs")
        counter = GlobalOpConcurrencyLimitsCounter(
            self.instance,
            [run],
            records,
            storage.get_concurrency_keys(),
            storage.get_pool_limits(),
            pool_granularity=self.instance.get_concurrency_config().pool_config.pool_granularity,
        )
        return counter.is_blocked(run)


@pytest.fixture
def scene(place: Place) -> Iterator[Scene]:
    with opened(place) as scene:
        yield scene


@contextmanager
def opened(place: Place) -> Iterator[Scene]:
    home = place.environ["DAGSTER_HOME"]
    with dg.DagsterInstance.from_config(str(Path(home))) as instance, place.catalog() as catalog:
        yield Scene(instance, catalog, place.settings.catalog_url)


def now() -> datetime:
    return datetime.now(UTC)


def end(scene: Scene, looks: int = 2) -> list[str]:
    """The ids of the runs that so many looks of the sensor, a minute apart, have ended."""
    ended: list[str] = []
    suspects = Suspects()
    for look in range(looks):
        at = now() + LATER + look * CONFIRMED_AFTER
        found, suspects = end_ghosts(scene.instance, scene.catalog, SOURCES, suspects, now=at)
        ended += [ghost.run_id for ghost in found]
    return ended


def test_a_run_whose_lease_ran_out_is_ended_with_the_reason_and_frees_its_pool(scene: Scene) -> None:
    """Else one lost machine stops a model until a person happens to look."""
    ghost = scene.started()
    scene.claim(ghost, ago=LATER)
    waiting = scene.created()
    assert scene.is_blocked(waiting)

    assert end(scene) == [ghost.run_id]

    assert scene.status(ghost) is dg.DagsterRunStatus.FAILURE
    (message,) = scene.messages(ghost)
    assert message.startswith(f"Nobody works on this run: its lease on weather.gfs {PARTITION} ran out")
    assert not scene.is_blocked(waiting)
    run = scene.instance.get_run_by_id(ghost.run_id)
    assert run is not None
    assert run.tags[RUN_FAILURE_REASON_TAG] == "UNEXPECTED_TERMINATION"
    assert end(scene) == []


def test_the_sensor_ends_whom_two_of_its_ticks_suspect(place: Place, scene: Scene) -> None:
    """Else a suspicion is forgotten from tick to tick, and no ghost is ever ended."""
    ghost = scene.started()
    scene.claim(ghost, ago=LATER)
    sensor = ghost_sensor(place.environ)

    first = sensor(dg.build_sensor_context(scene.instance, resources={"catalog": scene.catalog}))
    assert isinstance(first, dg.SensorResult)
    before = Suspects.parse(first.cursor)
    assert (set(before.since), scene.status(ghost)) == ({ghost.run_id}, dg.DagsterRunStatus.STARTED)

    a_minute_ago = {run: at - CONFIRMED_AFTER for run, at in before.since.items()}
    kept = replace(before, since=a_minute_ago).text()
    sensor(dg.build_sensor_context(scene.instance, cursor=kept, resources={"catalog": scene.catalog}))
    assert scene.status(ghost) is dg.DagsterRunStatus.FAILURE


def test_a_run_that_claims_again_before_the_second_look_goes_on(scene: Scene) -> None:
    """Else a run that worked long on a batch without a commit is ended between it and the next."""
    healthy = scene.started()
    at = now() + LATER
    ended, suspects = end_ghosts(scene.instance, scene.catalog, SOURCES, Suspects(), now=at)
    assert (ended, set(suspects.since)) == ((), {healthy.run_id})

    scene.claim(healthy)

    at += CONFIRMED_AFTER
    assert end_ghosts(scene.instance, scene.catalog, SOURCES, suspects, now=at) == ((), Suspects(at))
    assert scene.status(healthy) is dg.DagsterRunStatus.STARTED


def test_a_run_at_work_is_left_alone_though_the_host_s_clock_is_ahead(scene: Scene) -> None:
    """Else the cure kills what it should protect."""
    healthy = scene.started()
    scene.claim(healthy)

    assert end(scene) == []

    assert scene.status(healthy) is dg.DagsterRunStatus.STARTED
    assert scene.messages(healthy) == []


def test_a_run_that_holds_no_leases_is_not_judged_by_them(scene: Scene) -> None:
    """Else every check and every purge that takes long is ended."""
    check = scene.started("check_gfs")

    assert end(scene) == []

    assert scene.status(check) is dg.DagsterRunStatus.STARTED

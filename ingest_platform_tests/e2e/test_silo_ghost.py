"""kill -9 of a run of an organism, through Dagster: it stays STARTED, and the organism is imported again."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.op_concurrency_limits_counter import GlobalOpConcurrencyLimitsCounter
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from sqlalchemy import literal

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.operations.watch.defs import end_ghosts, sources_of
from ingest_platform.operations.watch.ghosts import CONFIRMED_AFTER, SILENCE, Suspects
from ingest_platform.silo.defs import definitions
from ingest_platform.silo.ingest import LEASE
from ingest_platform.silo.read import SOURCE, live
from ingest_platform.storage.store import store_of
from ingest_platform_tests.e2e.place import Place
from ingest_platform_tests.silo_bench import BUILDS, wait_until
from ingest_platform_tests.silo_world import Loculus, answer, loculus, record, write_database

# A run as its worker executes it.
WORKER = """
import sys
import dagster as dg
from ingest_platform.resources import resources
from ingest_platform.silo.defs import definitions
everything = dg.Definitions.merge(
    definitions(), dg.Definitions(resources=resources(), executor=dg.in_process_executor)
)
with dg.DagsterInstance.get() as instance:
    everything.resolve_job_def("import_silo").execute_in_process(
        partition_key=sys.argv[1], instance=instance, raise_on_error=False
    )
"""
WORKER_SECONDS = 60  # it imports Dagster first


@dataclass(frozen=True)
class Scene:
    """Two organisms, their ledger, and a Dagster without a daemon."""

    place: Place
    backend: Loculus
    instance: dg.DagsterInstance

    @contextmanager
    def parts(self, later: timedelta = timedelta(0)) -> Iterator[dict[str, Any]]:
        """The resources of ticks and runs, so much later by the ledger's clock."""
        settings = self.place.settings
        now = lambda: literal(datetime.now(UTC) + later, UtcTime())  # noqa: E731
        with Catalog.open(settings.catalog_url, now=now) as catalog:
            yield {"catalog": catalog, "store": store_of(settings), "settings": settings}

    def killed_run(self, organism: str) -> dg.DagsterRun:
        """A run that was killed while it loaded a release."""
        worker = subprocess.Popen([sys.executable, "-c", WORKER, organism], env=dict(self.place.environ))
        with self.parts() as parts:
            wait_until(lambda: owner(parts["catalog"], organism) is not None, WORKER_SECONDS)
        worker.kill()
        worker.wait()
        [run] = self.instance.get_runs()
        assert run.status is dg.DagsterRunStatus.STARTED
        return run

    def tick(self, parts: Mapping[str, Any]) -> list[str]:
        """The organisms that the sensor asks runs for."""
        context = dg.build_sensor_context(instance=self.instance, resources=dict(parts))
        answered = self.definitions(parts).resolve_sensor_def("silo_sensor")(context)
        assert isinstance(answered, dg.SensorResult)
        return [str(run.partition_key) for run in answered.run_requests or ()]

    def job(self, parts: Mapping[str, Any]) -> dg.JobDefinition:
        return self.definitions(parts).resolve_job_def("import_silo")

    def definitions(self, parts: Mapping[str, Any]) -> dg.Definitions:
        own = dg.Definitions(resources=dict(parts), executor=dg.in_process_executor)
        return dg.Definitions.merge(definitions(), own)

    def is_blocked(self, run: dg.DagsterRun) -> bool:
        """Whether Dagster's coordinator lets a run wait for the pool: its own counter."""
        storage = self.instance.event_log_storage
        # As the coordinator does when it meets a pool for the first time.
        storage.initialize_concurrency_limit_to_default("silo_engine")
        counter = GlobalOpConcurrencyLimitsCounter(
            self.instance,
            [run],
            self.instance.get_run_records(dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES)),
            storage.get_concurrency_keys(),
            storage.get_pool_limits(),
            pool_granularity=self.instance.get_concurrency_config().pool_config.pool_granularity,
        )
        return counter.is_blocked(run)


def owner(catalog: Catalog, organism: str) -> str | None:
    return next((row.lease_owner for row in catalog.partitions(SOURCE) if row.partition == organism), None)


@pytest.fixture
def scene(place: Place) -> Iterator[Scene]:
    binary = place.home / "engine"
    binary.write_text(BUILDS)
    binary.chmod(0o755)
    config = str(write_database(place.home / "config"))
    with loculus() as backend:
        entries = [
            {
                "id": name,
                "backend_url": f"{backend.url}-{name}",
                "preprocessing_config": config,
                "output": str(place.home / "served" / name),
                "engine": {"kind": "cli", "binary": str(binary)},
            }
            for name in ("ebola", "mpox")
        ]
        file = place.home / "organisms.yaml"
        file.write_text(yaml.safe_dump({"organisms": entries}))
        with dg.DagsterInstance.from_config(place.environ["DAGSTER_HOME"]) as instance:
            instance.add_dynamic_partitions("organism", ["ebola", "mpox"])
            yield Scene(place.with_settings(INGEST_SILO_ORGANISMS=str(file)), backend, instance)


@pytest.mark.silo_case(27)
@pytest.mark.silo_case(30)
def test_an_organism_whose_run_was_killed_is_imported_again(scene: Scene) -> None:
    """Else one lost machine stops all organisms until a person happens to look."""
    release = answer([record(n) for n in range(3)])
    scene.backend.always(answer([record(n) for n in range(3)], drip_seconds=0.05))
    ghost = scene.killed_run("ebola")
    scene.backend.release(release)

    with scene.parts() as parts:
        assert "ebola" not in scene.tick(parts)
    with scene.parts(LEASE + timedelta(seconds=50)) as parts:
        assert "ebola" in scene.tick(parts)
        waiting = scene.instance.create_run_for_job(scene.job(parts), tags={"dagster/partition": "mpox"})
        assert scene.is_blocked(waiting)

    sources = sources_of(scene.place.settings)
    suspects, later = Suspects(), SILENCE + timedelta(minutes=5)
    with scene.parts(later) as parts:
        for look in range(2):
            at = datetime.now(UTC) + later + look * CONFIRMED_AFTER
            ended, suspects = end_ghosts(scene.instance, parts["catalog"], sources, suspects, now=at)
        assert [found.run_id for found in ended] == [ghost.run_id]
        assert not scene.is_blocked(waiting)

        again = scene.job(parts).execute_in_process(partition_key="ebola", instance=scene.instance)

        assert again.success
        index = live(parts["catalog"], "ebola")
        assert index is not None
        assert index.rows == 3

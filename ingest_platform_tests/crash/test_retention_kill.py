"""A purge is killed, or put to sleep, at each point of its way; the next one finishes as if nothing had been.

Readers beside it open every grid that the ledger shows, all the time, and compare it with its checksum. The
points are those of the protocol's table: after horizon and mark, after each delete, before and inside erase.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.settings import Settings
from ingest_platform.storage.store import Store, store_of
from ingest_platform.weather import feed
from ingest_platform.weather.ingest import ingest_partition
from ingest_platform_tests import weather_world
from ingest_platform_tests.crash.retention_worker import Order, encoded, work
from ingest_platform_tests.crash.weather_scene import PATIENCE_SECONDS, REPOSITORY, check_rows
from ingest_platform_tests.services.s3 import S3Server
from ingest_platform_tests.weather_world import NOON, World, pocket

MODEL = pocket("mrms", ["reflectivity_composite"])
HOURS = [MODEL.partition_key(NOON - timedelta(hours=age)) for age in (4, 3, 2, 1)]
OLD, NEWEST = HOURS[:3], HOURS[3]
CUTOFF = MODEL.partition_end(NEWEST).isoformat()  # what ends at it is kept

MARK = ["before mark", "expire: before COMMIT", "expire: after COMMIT", "after mark"]
ERASE = ["before erase", "erase: before COMMIT", "erase: after COMMIT", "after erase"]
FORGET = ["forget: before COMMIT", "forget: after COMMIT"]
# The first step of the first tree, one in the middle, the last of the last: a folder has steps of its own,
# a bucket one for each thousand objects, so one for each tree.
DELETE = [("delete", 1), ("delete", 4), ("delete", 9)]
DELETE_ON_S3 = [("delete", 1), ("delete", 3)]


@dataclass(frozen=True, slots=True)
class Scene:
    """One ledger and one store with four hours of radar, of which three are old."""

    environ: dict[str, str]
    violations: list[str] = field(default_factory=list)

    def order(self, **more: object) -> Order:
        return replace(Order(self.environ, MODEL.source_name, CUTOFF), **more)  # type: ignore[arg-type]

    def kill(self, point: str, passage: int = 1) -> None:
        """A purge begins and is killed at the point, with readers beside it."""
        with self.readers():
            process = self._start(self.order(fate="KILL", point=point, passage=passage))
            _, story = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == -signal.SIGKILL, f"never came to {point!r}: {story}"

    def stop(self, point: str) -> "subprocess.Popen[str]":
        """A purge begins and falls asleep at the point."""
        process = self._start(self.order(fate="STOP", point=point))
        became = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert became is not None
        assert became.si_code == os.CLD_STOPPED, f"never came to {point!r}: {process.communicate()}"
        return process

    def wake(self, process: "subprocess.Popen[str]") -> list[str]:
        """Go on where you stopped; which partitions you brought to their end."""
        process.send_signal(signal.SIGCONT)
        told, story = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, story
        done: list[str] = json.loads(told)
        return done

    def finish(self) -> list[str]:
        """The next purge, when the lease of the one before is over, with readers beside it."""
        with self.readers():
            return work(self.order(hours_ahead=1))

    @contextmanager
    def readers(self) -> Iterator[None]:
        """Somebody reads all that the ledger shows, again and again, until the block ends."""
        over = threading.Event()
        rounds: list[int] = []

        def read_on() -> None:
            with self.opened() as (catalog, store):
                while not over.is_set():
                    for key in HOURS:
                        self._read(catalog, store, key)
                    rounds.append(1)

        thread = threading.Thread(target=read_on)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert rounds
        assert self.violations == []

    def check_healed(self) -> None:
        """What a purge leaves to which nothing happened: the newest hour, and nothing of the others."""
        with self.opened() as (catalog, store):
            (row,) = catalog.partitions()
            assert (row.partition, row.state) == (NEWEST, "open")
            self._read(catalog, store, NEWEST)
            assert list(store.list_uris()) == [row.uri]
            counts = {count.name: count.value for count in catalog.counts()}
            assert counts["partitions_purged_total"] == len(OLD)
            assert counts["artifacts_purged_total"] == len(OLD)
            assert counts["files_ingested_total"] == len(HOURS)
        assert self.violations == []

    @contextmanager
    def opened(self) -> Iterator[tuple[Catalog, Store]]:
        settings = Settings.from_environment(self.environ)
        with Catalog.open(settings.catalog_url) as catalog:
            yield catalog, store_of(settings)

    def _read(self, catalog: Catalog, store: Store, key: str) -> None:
        shown = catalog.published(MODEL.source_name, key)
        if shown is None:
            return
        try:
            check_rows(store, shown)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong: is it still shown?
            if catalog.published(MODEL.source_name, key) == shown:
                self.violations.append(f"{key}: {error!r}")

    def _start(self, order: Order) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "ingest_platform_tests.crash.retention_worker", encoded(order)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )


@pytest.fixture(scope="session")
def four_hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hours of radar, ingested on SQLite and a folder, to copy."""
    root = tmp_path_factory.mktemp("four-hours")
    _ingest(weather_world.world(root))
    return root


@pytest.fixture
def local(four_hours: Path, tmp_path: Path) -> Scene:
    shutil.copytree(four_hours / "home", tmp_path / "home")
    shutil.copytree(four_hours / "mirror", tmp_path / "mirror", copy_function=os.link)
    return Scene({"INGEST_HOME": str(tmp_path / "home"), **_mirror(tmp_path)})


@pytest.fixture
def servers(fresh_database: str, s3_server: S3Server, tmp_path: Path) -> Scene:
    environ = {
        "INGEST_CATALOG_URL": fresh_database,
        "INGEST_STORE_URL": f"s3://{s3_server.fresh_bucket()}/weather",
        **s3_server.environment(),
    }
    _ingest(weather_world.world(tmp_path, **environ))
    return Scene({"INGEST_HOME": str(tmp_path / "home"), **_mirror(tmp_path), **environ})


def _ingest(world: World) -> None:
    for hour in HOURS:
        world.put_radar(MODEL, MODEL.partition_start(hour) + timedelta(minutes=2))
    assert sum(report.published for report in world.ingest(MODEL)) == len(HOURS)
    world.catalog.close()


def _mirror(folder: Path) -> dict[str, str]:
    return {"INGEST_WEATHER_ENDPOINT": (folder / "mirror").as_uri()}


@pytest.mark.case(22)
@pytest.mark.parametrize(
    ("point", "passage"), [*((p, 1) for p in MARK + ERASE + FORGET), *DELETE, ("before erase", 3)]
)
def test_a_purge_that_dies_is_finished_by_the_next(point: str, passage: int, local: Scene) -> None:
    """Else a power cut leaves bytes that nobody deletes, or rows whose bytes are gone."""
    local.kill(point, passage)
    finished = local.finish()

    assert set(finished) <= set(OLD)
    local.check_healed()


@pytest.mark.case(22)
@pytest.mark.parametrize(
    ("point", "passage"), [*((p, 1) for p in (*MARK[1:], *ERASE, FORGET[0])), *DELETE_ON_S3]
)
def test_a_purge_that_dies_on_servers_is_finished_by_the_next(
    point: str, passage: int, servers: Scene
) -> None:
    """Else a node that is drained leaves objects that are paid for and that nobody deletes."""
    servers.kill(point, passage)
    finished = servers.finish()

    assert set(finished) <= set(OLD)
    servers.check_healed()


@pytest.mark.case(22)
@pytest.mark.parametrize("places", ["local", "servers"])
@pytest.mark.parametrize("point", ["after mark", "delete", "before erase"])
def test_a_purge_that_slept_past_its_lease_spoils_no_backfill(
    point: str, places: str, request: pytest.FixtureRequest
) -> None:
    """Else a machine that was suspended deletes, hours later, what a person has fetched anew."""
    scene: Scene = request.getfixturevalue(places)

    sleeper = scene.stop(point)
    finished = scene.finish()
    scene.check_healed()
    _fetch_again(scene, OLD[0])
    woken = scene.wake(sleeper)

    assert set(finished) == set(OLD)
    assert woken == []
    with scene.opened() as (catalog, store):
        rows = {row.partition: row for row in catalog.partitions()}
        assert {key: row.state for key, row in rows.items()} == {OLD[0]: "open", NEWEST: "open"}
        for key in rows:
            shown = catalog.published(MODEL.source_name, key)
            assert shown is not None
            check_rows(store, shown)
        assert list(store.list_uris()) == sorted(str(row.uri) for row in rows.values())
    assert scene.violations == []


def _fetch_again(scene: Scene, key: str) -> None:
    """The explicit backfill of one hour."""
    with feed.open_rails(Settings.from_environment(scene.environ)) as rails:
        rails.catalog.admit(MODEL.source_name, key, MODEL.partition_end(key))
        assert feed.see_partition(rails, MODEL, key) == 1
        report = ingest_partition(rails, MODEL, key, owner="backfill")
    assert report.published == 1

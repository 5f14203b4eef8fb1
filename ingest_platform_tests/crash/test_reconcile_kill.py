"""A reconcile is killed, or put to sleep, at each point of its way; the next one ends as if nothing had been.

Two hours of radar have lost their snapshots, three trees have no name. The end is always the same: every
grid is back, bit by bit, and the store holds what the ledger names and nothing else.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.settings import Settings
from ingest_platform.storage.store import Store, store_of
from ingest_platform.weather import feed
from ingest_platform.weather.ingest import ingest_partition
from ingest_platform.weather.read import open_live
from ingest_platform_tests import weather_world
from ingest_platform_tests.crash.reconcile_worker import Order, clock, encoded, work
from ingest_platform_tests.crash.weather_scene import PATIENCE_SECONDS, REPOSITORY, check_rows, pixels
from ingest_platform_tests.services.s3 import S3Server
from ingest_platform_tests.weather_world import NOON, World, pocket

MODEL = pocket("mrms", ["reflectivity_composite"])
HOURS = [MODEL.partition_key(NOON - timedelta(hours=age)) for age in (3, 2, 1)]
LOST = HOURS[:2]
ORPHANS = [f"{MODEL.source_name}/{HOURS[0]}/{name}" for name in ("a" * 24, "b" * 24, "c" * 24)]
# The trees without a name, and what is left of the lost ones when they were fetched again.
TO_REMOVE = len(ORPHANS) + len(LOST)

LOOK = ["after list", "after read"]
DELETE = ["between deletes", "add: before COMMIT", "add: after COMMIT"]
REPAIR = [
    "before repair's lease",
    "hold: before COMMIT",
    "hold: after COMMIT",
    "after lease",
    "repair: before COMMIT",
    "repair: after COMMIT",
    "after repair",
]
END = ["keep_cursor: before COMMIT", "keep_cursor: after COMMIT"]
# A tree of a folder goes in several steps, one of a bucket in one for each thousand objects.
STEPS = [("delete", 1), ("delete", 2), ("delete", 4)]
SECOND = [("between deletes", 2), ("before repair's lease", 2), ("after lease", 2), ("after repair", 2)]
# Deleted and not yet counted: one may be missing in the count.
UNCOUNTED = {"delete", "add: before COMMIT"}


@dataclass(frozen=True, slots=True)
class Scene:
    """One ledger and one store that disagree both ways."""

    environ: dict[str, str]
    whole: Mapping[str, object]  # what was to be seen before the damage

    def kill(self, point: str, passage: int = 1) -> None:
        """A reconcile begins and is killed at the point."""
        process = self._start(Order(self.environ, fate="KILL", point=point, passage=passage))
        _, story = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == -signal.SIGKILL, f"never came to {point!r}: {story}"

    def stop(self, point: str) -> "subprocess.Popen[str]":
        """A reconcile begins and falls asleep at the point."""
        process = self._start(Order(self.environ, fate="STOP", point=point))
        became = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert became is not None
        assert became.si_code == os.CLD_STOPPED, f"never came to {point!r}: {process.communicate()}"
        return process

    def wake(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        """Go on where you stopped; what you have to tell at the end."""
        process.send_signal(signal.SIGCONT)
        told, story = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, story
        found: dict[str, Any] = json.loads(told)
        return found

    def heal(self, hours_ahead: float = 1) -> dict[str, Any]:
        """The next reconcile when the lease of the one before is over, the next ingest, and one more."""
        found = work(Order(self.environ, hours_ahead=hours_ahead))
        with self.opened(hours_ahead) as (catalog, store):
            settings = Settings.from_environment(self.environ)
            rails = feed.rails_over(catalog, store, settings)
            for key in catalog.due_partitions(MODEL.source_name):
                ingest_partition(rails, MODEL, key, owner="rescuer")
        work(Order(self.environ, hours_ahead=hours_ahead))
        return found

    def check_healed(self, removed: tuple[int, ...] = (TO_REMOVE,)) -> None:
        """What a reconcile leaves to which nothing happened."""
        with self.opened() as (catalog, store):
            rows = catalog.partitions(MODEL.source_name)
            assert list(store.list_uris()) == sorted(str(row.uri) for row in rows)
            assert [row.lease_owner for row in rows] == [None] * len(HOURS)
            assert seen(catalog, store) == self.whole
            counts = {count.name: count.value for count in catalog.counts()}
            assert counts["partitions_repaired_total"] == len(LOST)
            assert counts["orphans_removed_total"] in removed
            assert counts["files_ingested_total"] == len(HOURS) + len(LOST)

    @contextmanager
    def opened(self, hours_ahead: float = 0) -> Iterator[tuple[Catalog, Store]]:
        settings = Settings.from_environment(self.environ)
        with Catalog.open(settings.catalog_url, now=clock(hours_ahead)) as catalog:
            yield catalog, store_of(settings)

    def _start(self, order: Order) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "ingest_platform_tests.crash.reconcile_worker", encoded(order)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )


def seen(catalog: Catalog, store: Store) -> dict[str, object]:
    """What readers get, after a proof that each grid is what its row says."""
    view: dict[str, object] = {}
    for key in HOURS:
        shown = catalog.published(MODEL.source_name, key)
        assert shown is not None, key
        check_rows(store, shown)
        view[key] = sorted((row["name"], row["checksum"], row["etag"]) for row in shown.artifacts)
        view |= pixels(key, open_live(catalog, store, MODEL, key))
    return view


@pytest.fixture(scope="session")
def three_hours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, object]]:
    """Three hours of radar, of which two were lost, on SQLite and a folder, to copy; and what they were."""
    root = tmp_path_factory.mktemp("three-hours")
    return root, _damaged(weather_world.world(root))


@pytest.fixture
def local(three_hours: tuple[Path, Mapping[str, object]], tmp_path: Path) -> Scene:
    root, whole = three_hours
    shutil.copytree(root / "home", tmp_path / "home")
    shutil.copytree(root / "mirror", tmp_path / "mirror", copy_function=os.link)
    return Scene({"INGEST_HOME": str(tmp_path / "home"), **_mirror(tmp_path)}, whole)


@pytest.fixture
def servers(fresh_database: str, s3_server: S3Server, tmp_path: Path) -> Scene:
    environ = {
        "INGEST_CATALOG_URL": fresh_database,
        "INGEST_STORE_URL": f"s3://{s3_server.fresh_bucket()}/weather",
        **s3_server.environment(),
    }
    whole = _damaged(weather_world.world(tmp_path, **environ))
    return Scene({"INGEST_HOME": str(tmp_path / "home"), **_mirror(tmp_path), **environ}, whole)


def _damaged(world: World) -> Mapping[str, object]:
    """Ingest, look, and do the damage."""
    for hour in HOURS:
        world.put_radar(MODEL, MODEL.partition_start(hour) + timedelta(minutes=2))
    assert sum(report.published for report in world.ingest(MODEL)) == len(HOURS)
    store = world.rails.store
    whole = seen(world.catalog, store)
    for orphan in ORPHANS:
        for folder in ("chunks", "refs", "snapshots"):
            store.put(f"{orphan}/{folder}/x", b"nobody's")
    for key in LOST:
        shown = world.catalog.published(MODEL.source_name, key)
        assert shown is not None
        obstore.delete(store._open(), f"{shown.uri}/snapshots/{shown.snapshot}")
    world.catalog.close()
    return whole


def _mirror(folder: Path) -> dict[str, str]:
    return {"INGEST_WEATHER_ENDPOINT": (folder / "mirror").as_uri()}


@pytest.mark.case(24)
@pytest.mark.parametrize(
    ("point", "passage"), [*((p, 1) for p in (*LOOK, *DELETE, *REPAIR, *END)), *STEPS, *SECOND]
)
def test_a_reconcile_that_dies_is_finished_by_the_next(point: str, passage: int, local: Scene) -> None:
    """Else the cure for a crash is one more thing that a crash can break."""
    local.kill(point, passage)
    local.heal()

    local.check_healed((TO_REMOVE - 1, TO_REMOVE) if point in UNCOUNTED else (TO_REMOVE,))


@pytest.mark.case(24)
@pytest.mark.parametrize("point", ["delete", *DELETE[:2], "after lease", *REPAIR[4:6]])
def test_a_reconcile_that_dies_on_servers_is_finished_by_the_next(point: str, servers: Scene) -> None:
    """Else a drained node leaves a partition leased, or objects that are paid for by nobody's choice."""
    servers.kill(point)
    servers.heal()

    servers.check_healed((TO_REMOVE - 1, TO_REMOVE) if point in UNCOUNTED else (TO_REMOVE,))


@pytest.mark.case(24)
@pytest.mark.parametrize(
    ("places", "point"),
    [
        *(("local", point) for point in (*LOOK, "delete", "between deletes", REPAIR[0], *REPAIR[3::3])),
        *(("servers", point) for point in (LOOK[1], "between deletes", "after lease")),
    ],
)
def test_a_reconcile_that_slept_past_its_lease_spoils_nothing(
    places: str, point: str, request: pytest.FixtureRequest
) -> None:
    """Else a suspended machine deletes, hours later, what was fetched again since."""
    scene: Scene = request.getfixturevalue(places)

    sleeper = scene.stop(point)
    scene.heal()
    # Of a tree that both deleted, each may count its part.
    counts = (TO_REMOVE, TO_REMOVE + 1) if point == "delete" else (TO_REMOVE,)
    scene.check_healed((TO_REMOVE,))
    woken = scene.wake(sleeper)

    assert woken["repaired"] == (1 if point == "after repair" else 0)
    scene.check_healed(counts)

"""The stage of the weather crash tests: mirrors, workers at the ready, and what the world looks like after.

A view is all that users and operators can see of one ledger and its store. Two views are equal if nobody
can tell the two worlds apart: rows, versions, counters, and every value bit by bit.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import xarray as xr
import zarr
from isal import isal_zlib

from ingest_platform.catalog.claim import MAX_ATTEMPTS
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Snapshot
from ingest_platform.settings import Settings
from ingest_platform.storage.store import Store, store_of
from ingest_platform.weather.model import Model
from ingest_platform.weather.read import open_live
from ingest_platform_tests.crash.weather_worker import Order, Result, model, work

REPOSITORY = Path(__file__).parents[2]
# A worker on a busy machine; only a hanging one takes as long.
PATIENCE_SECONDS = 60
# Counts what went wrong, how often it was tried and how long it took; all other counters are those of a run
# in which nothing went wrong.
TROUBLE = (
    "objects_postponed_total",
    "source_http_requests_total",
    "ingestion_runs_total",
    "ingestion_duration_seconds",
    "publish_to_visible_seconds",
)


@dataclass(frozen=True, slots=True)
class View:
    """What can be seen. Where a grid lies in its arrays is nobody's business and left out."""

    objects: tuple[tuple[str, ...], ...]  # partition, key, etag, state
    grids: tuple[tuple[tuple[str, Any], ...], ...]  # rows of the catalog
    counts: tuple[tuple[str, str, float], ...]
    values: Mapping[str, str]  # per partition and array: shape, axes and CRC of what open_weather gives

    @property
    def published(self) -> tuple[object, object]:
        """The part that readers see."""
        return self.grids, self.values


@dataclass(frozen=True, slots=True)
class Scene:
    """One ledger, one store, one mirror of the source, and the workers on them."""

    environ: Mapping[str, str]
    crew: "Crew"
    models: tuple[str, ...] = ("hrrr",)

    def order(self, **more: Any) -> Order:
        return Order(environ=dict(self.environ), models=self.models, **more)

    def with_mirror(self, mirror: Path) -> "Scene":
        return replace(self, environ={**self.environ, "INGEST_WEATHER_ENDPOINT": mirror.as_uri()})

    def kill(self, point: str, **more: Any) -> None:
        """A worker begins its shift and is killed at the point."""
        (worker,) = self.crew.send(self.order(owner="victim", fate="kill", point=point, **more))
        worker.wait_for_death(point)

    def stop(self, point: str, **more: Any) -> "Worker":
        """A worker begins its shift and falls asleep at the point."""
        (worker,) = self.crew.send(self.order(owner="sleeper", fate="stop", point=point, **more))
        worker.wait_for_stop(point)
        return worker

    def rescue(self, hours_ahead: float = 1) -> Result:
        """Another worker's shift, when the lease and all waits of the one before are over."""
        return work(self.order(owner="rescuer", hours_ahead=hours_ahead))

    def work(self, at: Callable[[str], None] = lambda _point: None, **more: Any) -> Result:
        """A shift in the test's own process."""
        return work(self.order(**more), at)

    def look(self) -> View:
        """The view, after a proof that each published grid is there and is what its row says."""
        with self.opened() as (catalog, store):
            return _view(catalog, store, [model(name) for name in self.models])

    def named(self) -> list[tuple[str, str | None, str | None]]:
        """What the ledger names: partition, uri, snapshot."""
        with self.opened() as (catalog, _):
            return [(row.partition, row.uri, row.snapshot) for row in catalog.partitions()]

    @contextmanager
    def opened(self) -> Iterator[tuple[Catalog, Store]]:
        settings = Settings.from_environment(self.environ)
        with Catalog.open(settings.catalog_url) as catalog:
            yield catalog, store_of(settings)

    def check_healed(self, clean: View) -> None:
        """As if nothing had happened: the clean run's view, one uri for each partition, attempts left."""
        assert self.look() == clean
        with self.opened() as (catalog, store):
            stored = set(store.list_uris())
            for row in catalog.partitions():
                assert row.uri in stored, (row.uri, stored)
                assert row.lease_owner is None
                for item in catalog.objects(row.source, row.partition):
                    assert item.attempts < MAX_ATTEMPTS, item


def _view(catalog: Catalog, store: Store, models: list[Model]) -> View:
    objects: list[tuple[str, ...]] = []
    grids: list[tuple[tuple[str, Any], ...]] = []
    values: dict[str, str] = {}
    for described in models:
        for row in catalog.partitions(described.source_name):
            for item in catalog.objects(row.source, row.partition):
                objects.append((row.partition, item.key, item.etag, item.state))
            if (named := catalog.published(row.source, row.partition)) is None:
                continue
            check_rows(store, named)
            grids += [_identity(artifact) for artifact in named.artifacts]
            values |= pixels(row.partition, open_live(catalog, store, described, row.partition))
    names = [dict(grid)["name"] for grid in grids]
    assert len(set(names)) == len(names), Counter(names).most_common(3)
    counts = sorted(
        (c.name, json.dumps(dict(c.labels), sort_keys=True), c.value)
        for c in catalog.counts()
        if not c.name.startswith(TROUBLE)
    )
    return View(tuple(sorted(objects)), tuple(sorted(grids, key=repr)), tuple(counts), values)


def check_rows(store: Store, named: Snapshot) -> None:
    """Each row's grid lies in the snapshot, bit by bit what its checksum says."""
    repository = icechunk.Repository.open(store.icechunk_storage(named.uri))
    root = zarr.open_group(repository.readonly_session(snapshot_id=named.snapshot).store, mode="r")
    for row in named.artifacts:
        array = root[str(row["array"])]
        assert isinstance(array, zarr.Array)
        place = (row["time_index"], row["level_index"])
        stored = np.ascontiguousarray(array[tuple(i for i in place if i is not None)])
        assert f"crc32:{isal_zlib.crc32(stored):08x}" == row["checksum"], row["name"]


def pixels(partition: str, opened: xr.Dataset) -> dict[str, str]:
    """What a user gets, small enough to compare and to print."""
    told = {}
    for name, array in opened.variables.items():
        values = np.ascontiguousarray(array.values)
        crc = isal_zlib.crc32(values.tobytes())
        told[f"{partition}/{name}"] = f"{array.dims} {values.dtype} {values.shape} {crc:08x}"
    return told


def _identity(artifact: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((k, v) for k, v in artifact.items() if k not in ("time_index", "level_index")))


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that carries out an order."""

    process: "subprocess.Popen[str]"
    log: Path

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.log.read_text()

    def begin(self, order: Order) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(order)) + "\n")
        self.process.stdin.flush()

    def wait_for_death(self, point: str) -> None:
        code = self.process.wait(PATIENCE_SECONDS)
        assert code == -signal.SIGKILL, f"never came to {point!r}: {self.told(code)}"

    def wait_for_stop(self, point: str) -> None:
        """Returns when every thread of the worker has stopped."""
        # WNOWAIT: what became of a process that ended instead is Popen's to collect.
        became = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert became is not None
        if became.si_code != os.CLD_STOPPED:
            raise AssertionError(f"never came to {point!r}: {self.told(self.process.wait())}")

    def wake(self) -> Result:
        """Go on where you stopped; what you have to tell at the end."""
        self.process.send_signal(signal.SIGCONT)
        return self.result()

    def result(self) -> Result:
        """The end of a worker that nothing happened to."""
        said, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, self.told(self.process.returncode)
        return Result(**json.loads(said))

    def failed(self) -> str:
        """How a worker ended that was woken and had to fail."""
        self.process.send_signal(signal.SIGCONT)
        assert self.process.wait(PATIENCE_SECONDS) == 1, self.told(self.process.returncode)
        return self.log.read_text()

    def told(self, code: int) -> str:
        return f"exit code {code}\n{self.log.read_text()[-4000:]}"


@dataclass(slots=True)
class Crew:
    """Workers at the ready: their imports take a second, which they spend while another test runs."""

    folder: Path
    size: int = 2
    _ready: list[Worker] = field(default_factory=list)
    _all: list[Worker] = field(default_factory=list)

    def send(self, *orders: Order) -> list[Worker]:
        """So many workers begin, all at once."""
        self.call_up(len(orders))
        chosen, self._ready = self._ready[: len(orders)], self._ready[len(orders) :]
        for worker in chosen:
            worker.wait_until_ready()
        for worker, order in zip(chosen, orders, strict=True):
            worker.begin(order)
        self.call_up(self.size)
        return chosen

    def call_up(self, number: int) -> None:
        """Have so many waiting."""
        while len(self._ready) < number:
            log = self.folder / f"worker-{len(self._all)}.log"
            with log.open("w") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", "ingest_platform_tests.crash.weather_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    cwd=REPOSITORY,
                )
            worker = Worker(process, log)
            self._ready.append(worker)
            self._all.append(worker)

    def dismiss(self) -> None:
        """Nobody is left behind, neither asleep nor waiting."""
        for worker in self._all:
            worker.process.kill()
            worker.process.communicate()

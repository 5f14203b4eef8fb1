"""Several weather workers at once: on the same partition, and a slow one beside a fast one."""

import queue
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ingest_platform.weather import feed
from ingest_platform.weather.ingest import Rails, Report
from ingest_platform_tests.crash.weather_scene import Scene, View
from ingest_platform_tests.crash.weather_worker import database_error, model, open_rails, raising_at

HOUR = "2026-07-18T11"
CYCLE = "2026-07-18T09"
# Hours, of the 90 s that a worker may be silent.
LESS_THAN_A_LEASE = 60 / 3600
# Only a test that fails waits as long.
PATIENCE_SECONDS = 30


@pytest.fixture(params=["sqlite and folder", "postgresql and s3"])
def radar_both(request: pytest.FixtureRequest, radar_mirror: Path) -> Scene:
    """Nothing is published; two batches of radar lie at the source."""
    if request.param.startswith("sqlite"):
        scene: Scene = request.getfixturevalue("radar")
        return scene
    servers: Scene = request.getfixturevalue("untouched_servers")
    return replace(servers.with_mirror(radar_mirror), models=("mrms",))


@pytest.mark.case(13)
def test_three_workers_on_one_partition_read_and_publish_each_version_once(
    radar_both: Scene, clean_radar: View
) -> None:
    """Else a sensor's run, the daemon and a person's backfill pay three times and count three times."""
    scene = radar_both
    orders = [
        scene.order(owner="run"),
        scene.order(owner="daemon", daemon=True),
        scene.order(owner="person", by_hand=HOUR),
    ]

    with reading(scene) as sizes:
        results = [worker.result() for worker in scene.crew.send(*orders)]
    scene.rescue()

    reads = Counter(read for result in results for read in result.reads)
    assert set(reads.values()) == {1}
    assert sum(reads.values()) == sum(result.published for result in results) == 18
    assert sizes == sorted(sizes)
    scene.check_healed(clean_radar)


@pytest.mark.case(13)
def test_whoever_comes_while_a_worker_is_busy_reads_nothing(radar_both: Scene, clean_radar: View) -> None:
    """Else each new look at the source downloads again what is on its way already."""
    scene = radar_both

    busy = scene.stop("read", passage=3)
    late = [
        scene.work(daemon=True),
        scene.work(by_hand=HOUR),
        scene.work(hours_ahead=LESS_THAN_A_LEASE),
    ]
    finished = busy.wake()

    assert [result.reads for result in late] == [[], [], []]
    assert len(set(finished.reads)) == len(finished.reads) == finished.published == 18
    scene.check_healed(clean_radar)


@pytest.mark.case(33)
def test_a_forecast_that_hangs_does_not_delay_radar(
    untouched: Scene, radar_mirror: Path, tmp_path: Path
) -> None:
    """Else a storm is shown only when the forecast of the whole globe is in."""
    scene, publish_newest = beside_radar(untouched, radar_mirror, tmp_path)
    hangs, go_on = threading.Event(), threading.Event()

    def at(point: str) -> None:
        if point.startswith("read hrrr"):
            hangs.set()
            assert go_on.wait(PATIENCE_SECONDS)

    with open_rails(scene.order(), at, []) as rails, following(rails, scene) as published:
        assert hangs.wait(PATIENCE_SECONDS)
        assert published("mrms", 17)
        publish_newest()
        assert published("mrms", 1)
        while_hanging = scene.look()
        go_on.set()
        assert published("hrrr", 3)

    assert len(while_hanging.grids) == 18
    assert {key.split("/")[0] for key in while_hanging.values} == {HOUR}
    assert {key.split("/")[0] for key in scene.look().values} == {HOUR, CYCLE}


@pytest.mark.case(30)
def test_a_daemon_outlives_an_outage_of_the_ledger(radar: Scene, clean_radar: View) -> None:
    """Else a restart of the database ends the feed for good, while the daemon seems to run."""
    at = raising_at("see: before COMMIT", database_error)

    with open_rails(radar.order(), at, []) as rails, following(rails, radar) as published:
        assert published("mrms", 18)

    radar.check_healed(clean_radar)


@contextmanager
def reading(scene: Scene) -> Iterator[list[int]]:
    """A reader who looks all the time; how many grids each look showed. Each is proved to be whole."""
    sizes: list[int] = []
    broken: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.wait(0.05):
                sizes.append(len(scene.look().grids))
        except BaseException as error:  # noqa: BLE001 - told to the test below
            broken.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield sizes
    finally:
        done.set()
        reader.join()
    assert broken == []
    assert sizes


def beside_radar(scene: Scene, radar_mirror: Path, folder: Path) -> tuple[Scene, Callable[[], None]]:
    """A mirror of both models, and a call that publishes the last radar object at the source."""
    mirror = folder / "mirror"
    for part in (Path(scene.environ["INGEST_WEATHER_ENDPOINT"].removeprefix("file://")), radar_mirror):
        shutil.copytree(part, mirror, dirs_exist_ok=True)
    newest = max(mirror.rglob("*PrecipRate*.gz"))
    held_back = newest.rename(folder / newest.name)
    return replace(scene.with_mirror(mirror), models=("hrrr", "mrms")), lambda: (
        held_back.rename(newest),
        None,
    )[1]


@contextmanager
def following(rails: Rails, scene: Scene) -> Iterator[Callable[[str, int], bool]]:
    """`ingest run` in a thread; ask whether a model published so many objects, however long it takes."""
    reports: queue.Queue[Report] = queue.Queue()
    counts: Counter[str] = Counter()
    stop = threading.Event()
    models = [model(name) for name in scene.models]

    def run() -> None:
        feed.follow(rails, models, owner="daemon", interval_seconds=0.05, stop=stop, report=reports.put)

    def published(name: str, number: int) -> bool:
        while counts[name] < number:
            report = reports.get(timeout=PATIENCE_SECONDS)
            counts[report.model.id] += report.published
        counts[name] -= number
        return counts[name] == 0

    daemon = threading.Thread(target=run)
    daemon.start()
    try:
        yield published
    finally:
        stop.set()
        daemon.join()

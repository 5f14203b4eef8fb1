"""No space left on device, at every stage that writes: it is told, nothing is lost, and when there is room
again the end is that of a run that nothing happened to.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from ingest_platform.errors import StoreUnavailable
from ingest_platform.weather.model import Model
from ingest_platform_tests.conftest import needed
from ingest_platform_tests.pressure.disk import Disk, small_disk
from ingest_platform_tests.weather_world import CYCLE, World, pocket, world

FULL = (StoreUnavailable, OperationalError)


@pytest.fixture(scope="module")
def gfs() -> Model:
    return pocket("gfs")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with needed(), small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(scope="module")
def calm(gfs: Model, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same files, and room enough."""
    calm = world(tmp_path_factory.mktemp("calm"))
    publish_first(calm, gfs)
    publish_more(calm, gfs)
    calm.ingest(gfs)
    return calm


def publish_first(place: World, gfs: Model) -> None:
    """One lead is published before anything happens, so that there is something to lose."""
    place.put_lead(gfs, 3)
    place.ingest(gfs)


def publish_more(place: World, gfs: Model) -> None:
    """Without inventories: the whole files go through the scratch folder."""
    for lead in (4, 5):
        place.put_lead(gfs, lead, index=False)
    place.advance(minutes=11)


def check_unharmed(place: World, gfs: Model, before: dict[str, str]) -> None:
    """What was published is, and no object is blamed."""
    assert place.grids(gfs) == before
    assert place.open(gfs).temperature_2m.notnull().all()
    assert {row.state for row in place.objects(gfs)} <= {"ingested", "pending"}
    assert [row.attempts for row in place.objects(gfs) if row.state == "pending"] in ([], [0, 0])


def check_healed(place: World, gfs: Model, calm: World) -> None:
    """There is room again, and time passes: nobody does anything."""
    place.advance(minutes=1)
    place.ingest(gfs)
    assert place.grids(gfs) == calm.grids(gfs)
    assert [(r.key, r.state, r.attempts) for r in place.objects(gfs)] == [
        (r.key, r.state, r.attempts) for r in calm.objects(gfs)
    ]


def at_point(point: str, action: Callable[[], None]) -> Callable[[str], None]:
    """An `at` that acts once, at this point."""
    left = [point]

    def at(passed: str) -> None:
        if passed in left:
            left.remove(passed)
            action()

    return at


@pytest.mark.parametrize("leaving", [0, 8192], ids=["no folder can be made", "half a download fits"])
def test_a_full_scratch_folder(disk: Disk, gfs: Model, tmp_path: Path, calm: World, leaving: int) -> None:
    """Else one other program's temporary files cost a forecast."""
    place = world(tmp_path)
    publish_first(place, gfs)
    place.rails = replace(place.rails, scratch=disk.folder / "scratch")
    place.rails.scratch.mkdir()
    publish_more(place, gfs)
    before = place.grids(gfs)

    disk.fill(leaving=leaving)
    for _ in range(4):
        with pytest.raises(StoreUnavailable, match="scratch"):
            place.ingest(gfs)
        check_unharmed(place, gfs, before)
        place.advance(hours=1)
    assert [path.name for path in place.rails.scratch.iterdir()] == []

    disk.free()
    check_healed(place, gfs, calm)


@pytest.mark.parametrize(
    ("point", "leaving"),
    [("after claim", 0), ("during fetch", 8192), ("after chunks", 0)],
    ids=["when the draft is opened", "during the chunks", "at the Icechunk commit"],
)
def test_a_full_store(disk: Disk, gfs: Model, tmp_path: Path, calm: World, point: str, leaving: int) -> None:
    """Else the grids of a full disk are holes that nobody fills."""
    place = world(tmp_path, INGEST_STORE_URL=(disk.folder / "store").as_uri())
    publish_first(place, gfs)
    publish_more(place, gfs)
    before = place.grids(gfs)

    place.rails = replace(place.rails, at=at_point(point, lambda: disk.fill(leaving=leaving)))
    for _ in range(4):
        with pytest.raises(StoreUnavailable):
            place.ingest(gfs)
        check_unharmed(place, gfs, before)
        place.advance(hours=1)

    disk.free()
    check_healed(place, gfs, calm)


@pytest.fixture
def on_full_ledger(disk: Disk, tmp_path: Path, gfs: Model) -> World:
    """Something is published, more lies at the source; the ledger is the disk's only file."""
    place = world(tmp_path, INGEST_CATALOG_URL=f"sqlite:///{disk.folder / 'catalog.db'}")
    publish_first(place, gfs)
    publish_more(place, gfs)
    return place


def fill_ledger(disk: Disk) -> None:
    """The write-ahead log keeps the room that it once had: it is given back first."""
    connection = sqlite3.connect(disk.folder / "catalog.db")
    assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    connection.close()
    disk.fill()


def test_a_full_ledger_at_see(on_full_ledger: World, disk: Disk, gfs: Model, calm: World) -> None:
    """Else what was listed at that moment is taken for known."""
    place, before = on_full_ledger, on_full_ledger.grids(gfs)

    fill_ledger(disk)
    for _ in range(4):
        with pytest.raises(OperationalError, match="full"):
            place.poll(gfs)
        check_unharmed(place, gfs, before)

    disk.free()
    check_healed(place, gfs, calm)


def test_a_full_ledger_at_claim(on_full_ledger: World, disk: Disk, gfs: Model, calm: World) -> None:
    """Else "not written" looks like "nothing is due"."""
    place, before = on_full_ledger, on_full_ledger.grids(gfs)
    place.poll(gfs)

    fill_ledger(disk)
    for _ in range(4):
        with pytest.raises(OperationalError, match="full"):
            place.ingest(gfs)
        check_unharmed(place, gfs, before)

    disk.free()
    check_healed(place, gfs, calm)


def test_a_full_ledger_at_commit(on_full_ledger: World, disk: Disk, gfs: Model, calm: World) -> None:
    """The worker holds the lease while nothing can be written: it hands it back as soon as it can."""
    place, before = on_full_ledger, on_full_ledger.grids(gfs)
    somebody_makes_room = threading.Timer(1.5, disk.free)

    def fill() -> None:
        fill_ledger(disk)
        somebody_makes_room.start()

    place.rails = replace(place.rails, at=at_point("after the store commit", fill))
    with pytest.raises(OperationalError, match="full"):
        place.ingest(gfs)
    somebody_makes_room.join()

    check_unharmed(place, gfs, before)
    row = next(r for r in place.catalog.partitions() if r.partition == gfs.partition_key(CYCLE))
    assert row.lease_owner is None
    check_healed(place, gfs, calm)

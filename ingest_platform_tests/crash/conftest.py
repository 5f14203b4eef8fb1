"""Fixtures of the crash tests: mirrors made once, clean runs to compare with, scenes to spoil."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.demo.mirror import Extent, make_mirror
from ingest_platform_tests.crash.weather_scene import Crew, Scene, View
from ingest_platform_tests.crash.weather_worker import NOW, model
from ingest_platform_tests.services.s3 import S3Server

# What was published before the test was so long ago that request's hold-off is over.
AN_HOUR_AGO = -1


@pytest.fixture(scope="session")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    crew = Crew(tmp_path_factory.mktemp("crew"))
    yield crew
    crew.dismiss()


@pytest.fixture(scope="session")
def early_mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forecast cycle with two leads."""
    root = tmp_path_factory.mktemp("early")
    make_mirror(root, [model("hrrr")], now=NOW, extent=_forecast_of(0, 1))
    return root


@pytest.fixture(scope="session")
def late_mirror(early_mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cycle an hour later: lead 0 is published again with other values, lead 2 is new."""
    root = tmp_path_factory.mktemp("late") / "mirror"
    # Linked, because a mirror's ETags are made of inodes: lead 1 stays the same version.
    shutil.copytree(early_mirror, root, copy_function=os.link)
    make_mirror(root, [model("hrrr")], now=NOW, extent=_forecast_of(0, 2), seed=1)
    return root


@pytest.fixture(scope="session")
def radar_mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An hour of radar with 18 objects: two batches."""
    root = tmp_path_factory.mktemp("radar")
    extent = Extent(observations=9, radar_shape=(14, 28))
    made = make_mirror(root, [model("mrms")], now=NOW, extent=extent)
    assert len(made) == 18
    return root


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a migrated ledger and nothing else, to copy."""
    home = tmp_path_factory.mktemp("empty")
    Catalog.open(f"sqlite:///{home / 'catalog.db'}").close()
    return home


@pytest.fixture
def untouched(empty_home: Path, late_mirror: Path, tmp_path: Path, crew: Crew) -> Scene:
    """Nothing is published; three leads lie at the source."""
    return _at_home(empty_home, tmp_path, late_mirror, crew)


@pytest.fixture
def grown(early_home: Path, late_mirror: Path, tmp_path: Path, crew: Crew) -> Scene:
    """Two leads are published; at the source one was replaced and one is new."""
    return _at_home(early_home, tmp_path, late_mirror, crew)


@pytest.fixture
def radar(empty_home: Path, radar_mirror: Path, tmp_path: Path, crew: Crew) -> Scene:
    """Nothing is published; two batches of radar lie at the source."""
    return replace(_at_home(empty_home, tmp_path, radar_mirror, crew), models=("mrms",))


@pytest.fixture
def untouched_servers(
    fresh_database: str, s3_server: S3Server, late_mirror: Path, tmp_path: Path, crew: Crew
) -> Scene:
    """As `untouched`, on PostgreSQL and S3."""
    environ = {
        "INGEST_HOME": str(tmp_path),
        "INGEST_WEATHER_ENDPOINT": late_mirror.as_uri(),
        "INGEST_CATALOG_URL": fresh_database,
        "INGEST_STORE_URL": f"s3://{s3_server.fresh_bucket()}/weather",
        **s3_server.environment(),
    }
    return Scene(environ, crew)


@pytest.fixture
def grown_servers(untouched_servers: Scene, early_mirror: Path) -> Scene:
    """As `grown`, on PostgreSQL and S3."""
    untouched_servers.with_mirror(early_mirror).work(hours_ahead=AN_HOUR_AGO)
    return untouched_servers


@pytest.fixture(scope="session")
def early_home(
    empty_home: Path, early_mirror: Path, tmp_path_factory: pytest.TempPathFactory, crew: Crew
) -> Path:
    """A home where the two leads of the early mirror are published, to copy."""
    folder = tmp_path_factory.mktemp("published")
    _at_home(empty_home, folder, early_mirror, crew).work(hours_ahead=AN_HOUR_AGO)
    return folder / "home"


@pytest.fixture(scope="session")
def published_before(
    early_home: Path, late_mirror: Path, tmp_path_factory: pytest.TempPathFactory, crew: Crew
) -> View:
    """What readers see of `grown` before anything happens."""
    return _at_home(early_home, tmp_path_factory.mktemp("before"), late_mirror, crew).look()


@pytest.fixture(scope="session")
def clean_first(
    empty_home: Path, late_mirror: Path, tmp_path_factory: pytest.TempPathFactory, crew: Crew
) -> View:
    """What a run over `untouched` leaves when nothing happens to it."""
    return _clean(_at_home(empty_home, tmp_path_factory.mktemp("clean"), late_mirror, crew))


@pytest.fixture(scope="session")
def clean_grown(
    early_home: Path, late_mirror: Path, tmp_path_factory: pytest.TempPathFactory, crew: Crew
) -> View:
    """What a run over `grown` leaves when nothing happens to it."""
    return _clean(_at_home(early_home, tmp_path_factory.mktemp("clean"), late_mirror, crew))


@pytest.fixture(scope="session")
def clean_radar(
    empty_home: Path, radar_mirror: Path, tmp_path_factory: pytest.TempPathFactory, crew: Crew
) -> View:
    """What a run over `radar` leaves when nothing happens to it."""
    scene = _at_home(empty_home, tmp_path_factory.mktemp("clean"), radar_mirror, crew)
    return _clean(replace(scene, models=("mrms",)))


def _forecast_of(*leads: int) -> Extent:
    return Extent(leads={"hrrr": leads}, forecast_shape=(12, 24))


def _at_home(template: Path, folder: Path, mirror: Path, crew: Crew) -> Scene:
    home = folder / "home"
    shutil.copytree(template, home)
    return Scene({"INGEST_HOME": str(home), "INGEST_WEATHER_ENDPOINT": mirror.as_uri()}, crew)


def _clean(scene: Scene) -> View:
    result = scene.work()
    assert result.published > 0
    assert result.errors == []
    return scene.look()

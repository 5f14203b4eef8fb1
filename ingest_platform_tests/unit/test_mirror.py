"""The mirror: real keys, recent times, whole files."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingest_platform.demo.mirror import Extent, MirroredObject, make_mirror
from ingest_platform.errors import PermanentError
from ingest_platform.weather.config import load_models
from ingest_platform.weather.keys import parse
from ingest_platform.weather.model import Kind, Model

NOW = datetime(2026, 11, 21, 11, 30, tzinfo=UTC)
TINY = Extent(forecast_shape=(13, 24), satellite_shape=(30, 50), radar_shape=(35, 70))


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {model.id: model for model in load_models()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mirror")


@pytest.fixture(scope="module")
def mirrored(root: Path, models: dict[str, Model]) -> tuple[MirroredObject, ...]:
    return make_mirror(root, tuple(models.values()), now=NOW, extent=TINY)


@pytest.mark.case(1)
def test_every_object_is_one_that_discovery_plans(
    mirrored: tuple[MirroredObject, ...], models: dict[str, Model]
) -> None:
    """A mirror with invented names would show only that we can read our own inventions."""
    for item in mirrored:
        file = parse(models[item.model], item.bucket, item.key)
        assert file is not None, item.key
        assert item.path.stat().st_size == item.size_bytes


def test_everything_is_recent_and_within_retention(
    mirrored: tuple[MirroredObject, ...], models: dict[str, Model]
) -> None:
    """A purge right after the first ingest would empty the demo."""
    for item in mirrored:
        model = models[item.model]
        file = parse(model, item.bucket, item.key)
        assert file is not None
        assert timedelta(minutes=model.delay_minutes - 2) <= NOW - file.event_time
        assert NOW - file.event_time < timedelta(hours=model.retention_hours)


def test_the_mirror_holds_what_it_promises(mirrored: tuple[MirroredObject, ...]) -> None:
    """Both satellites, all bands, some leads and a run of radar times."""
    counts = Counter(item.model for item in mirrored)

    assert counts == {"gfs": 4, "hrrr": 3, "goes_east": 6, "goes_west": 6, "mrms": 10}


def test_inventories_lie_beside_their_files_and_nothing_else_does(
    root: Path, mirrored: tuple[MirroredObject, ...], models: dict[str, Model]
) -> None:
    """A left-over of a write would be listed as an object."""
    forecast = {item.path for item in mirrored if models[item.model].kind is Kind.FORECAST}

    found = {path for path in root.rglob("*") if path.is_file()}

    inventories = {path.with_name(path.name + ".idx") for path in forecast}
    assert found == {item.path for item in mirrored} | inventories
    for path in forecast:
        assert path.stat().st_mtime_ns <= path.with_name(path.name + ".idx").stat().st_mtime_ns


def test_the_same_call_writes_the_same_bytes(
    tmp_path: Path, mirrored: tuple[MirroredObject, ...], models: dict[str, Model]
) -> None:
    """A failing ingest of the mirror must be repeatable on another machine."""
    again = make_mirror(tmp_path, tuple(models.values()), now=NOW, extent=TINY)

    assert [(i.bucket, i.key) for i in again] == [(i.bucket, i.key) for i in mirrored]
    assert all(a.path.read_bytes() == b.path.read_bytes() for a, b in zip(again, mirrored, strict=True))


def test_a_model_without_a_source_at_that_time_is_named(tmp_path: Path, models: dict[str, Model]) -> None:
    """An empty mirror would look like a quiet day."""
    long_ago = datetime(1999, 1, 1, tzinfo=UTC)

    with pytest.raises(PermanentError, match="mrms: no source"):
        make_mirror(tmp_path, [models["mrms"]], now=long_ago, extent=TINY)

"""Fixtures of the fetch tests."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from ingest_platform.storage.bucket import open_bucket
from ingest_platform.storage.patience import Patience
from ingest_platform.weather.fetch import Fetched
from ingest_platform_tests.faulty_server import (
    FaultyServer,
    faulty_server,
)
from ingest_platform_tests.unit.fetching.place import BUCKET, Http, Mirror, Nasty, Place, fetcher


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as running:
        yield running


@pytest.fixture
def http(server: FaultyServer) -> Http:
    patience = Patience(first_delay_seconds=0.001, longest_delay_seconds=0.01, parallel=4)
    bucket = open_bucket(
        BUCKET, endpoint=server.endpoint, credentials=None, patience=patience, stall_seconds=0.5
    )
    return Http(bucket, server)


@pytest.fixture(params=["mirror", "http"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "http":
        given: Http = request.getfixturevalue("http")
        return given
    folder = tmp_path / "mirror"
    return Mirror(
        open_bucket(BUCKET, endpoint=folder.as_uri(), credentials=None, patience=Patience()), folder
    )


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def nasty(real_data: Path) -> Nasty:
    return Nasty(real_data / "weather/nasty")


@pytest.fixture
def fetch(place: Place, nasty: Nasty, tmp_path: Path, executor: Executor) -> Callable[..., Fetched]:
    return fetcher(place, nasty, tmp_path, executor)

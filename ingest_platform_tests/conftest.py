"""Fixtures for every test: real servers, started when the first test asks, and the folder of real files.

An endpoint given by the environment (INGEST_TEST_POSTGRES_URL, …) is used instead of a server of our own.
What is missing skips its tests on a contributor's machine and fails them in CI.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from ingest_platform_tests.services import endpoints, root
from ingest_platform_tests.services.install import CHROMIUM, PROMTOOL, program
from ingest_platform_tests.services.postgres import fresh_database as _fresh_database
from ingest_platform_tests.services.postgres import start_postgres
from ingest_platform_tests.services.processes import ServerUnavailable, stop_all, sweep
from ingest_platform_tests.services.redis import start_redis
from ingest_platform_tests.services.s3 import S3Server, start_s3
from ingest_platform_tests.services.weaviate import WeaviateServer, start_weaviate

REPOSITORY = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "case(number): the acceptance case of the specification that the test shows"
    )
    # A cancelled CI job sends SIGTERM; as an interrupt it reaches the fixtures, which stop the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def services_folder() -> Iterator[Path]:
    """Owns this session's servers. Named for our pid: the next session sweeps up if this one is killed."""
    root().mkdir(exist_ok=True)
    sweep(root())
    folder = root() / str(os.getpid())
    folder.mkdir()
    yield folder
    stop_all(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """A real PostgreSQL server, as the SQLAlchemy URL of its default database. Leave that one empty."""
    with needed():
        return os.environ.get(endpoints.POSTGRES) or start_postgres(_folder(request))


@pytest.fixture
def fresh_database(postgres_url: str) -> Iterator[str]:
    """The URL of an empty database of its own on the real PostgreSQL."""
    with _fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """A real Redis. All tests share its databases: use keys of your own."""
    with needed():
        return os.environ.get(endpoints.REDIS) or start_redis(_folder(request))


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """A real S3 server by http. `s3_server.fresh_bucket()` makes a bucket that no other test knows."""
    with needed():
        return endpoints.given_s3() or start_s3(_folder(request))


@pytest.fixture(scope="session")
def s3_https_server(request: pytest.FixtureRequest) -> S3Server:
    """A real S3 server by https; its `ca_path` is the certificate to trust."""
    with needed():
        return endpoints.given_s3_https() or start_s3(_folder(request), https=True)


@pytest.fixture(scope="session")
def weaviate_endpoint(request: pytest.FixtureRequest) -> WeaviateServer:
    """A real Weaviate. All tests share it: use collection names of your own."""
    with needed():
        return endpoints.given_weaviate() or start_weaviate(_folder(request))


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """A browser for Playwright's `executable_path`; run it with `--no-sandbox --disable-gpu`."""
    with needed():
        return program(CHROMIUM)


@pytest.fixture(scope="session")
def promtool_path() -> Path:
    """Prometheus' own checker of metrics, rules and expressions."""
    with needed():
        return program(PROMTOOL)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files; PROVENANCE.md in it says where each comes from. Read only."""
    with needed():
        folder = Path(os.environ.get("INGEST_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
        if not folder.is_dir():
            raise ServerUnavailable(
                f"real files: {folder} is no folder; set INGEST_REAL_DATA to the one that holds them"
            )
        return folder


@contextmanager
def needed() -> Iterator[None]:
    """What is missing skips the test, but fails it in CI, where a skip would pass for a proof."""
    try:
        yield
    except ServerUnavailable as error:
        _miss(str(error))


def _miss(message: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def _folder(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue("services_folder")
    return folder

"""Fixtures of the ledger's contract: each test gets it empty, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest_platform.catalog.ledger import Catalog
from ingest_platform_tests import weather_world
from ingest_platform_tests.contract.ledger_world import World, empty_postgresql, fresh_sqlite, world
from ingest_platform_tests.services.postgres import fresh_database


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty ledger to copy."""
    path = tmp_path_factory.mktemp("ledger") / "template.db"
    Catalog.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgresql_ledger(postgres_url: str) -> Iterator[str]:
    """A migrated ledger on the real PostgreSQL, to be emptied before each use."""
    with fresh_database(postgres_url) as url:
        Catalog.open(url).close()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new.db'}"
    url: str = request.getfixturevalue("fresh_database")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger on each dialect."""
    if request.param == "postgresql":
        return empty_postgresql(request.getfixturevalue("postgresql_ledger"))
    return fresh_sqlite(request.getfixturevalue("sqlite_template"), tmp_path)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[World]:
    """An empty ledger under a clock that only the test moves."""
    with world(ledger_url) as played:
        yield played


@pytest.fixture
def place(tmp_path: Path) -> weather_world.World:
    """A weather world on SQLite and a folder."""
    return weather_world.world(tmp_path)

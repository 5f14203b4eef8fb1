"""Fixtures of the pressure tests."""

from pathlib import Path

import pytest

from ingest_platform_tests import weather_world


@pytest.fixture
def place(tmp_path: Path) -> weather_world.World:
    """A weather world on SQLite and a folder."""
    return weather_world.world(tmp_path)

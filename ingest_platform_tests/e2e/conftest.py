"""The platform as users start it, once for all tests that only look at it or launch runs in it."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ingest_platform_tests.e2e.dagster_instance import RunningDagster, dagster_dev
from ingest_platform_tests.e2e.place import Place, long_ago, new_place

# Days that tests may launch: far enough back that no sensor takes them first.
DAYS_AGO = (20, 21)


@dataclass(frozen=True, slots=True)
class Platform:
    """A running Dagster, and the partitions that its buckets hold."""

    dagster: RunningDagster
    recent: dict[str, str]  # model → the partition that the sensors find
    old: tuple[dict[str, str], ...]  # model → a partition that only a launch brings, one for each of DAYS_AGO

    @property
    def place(self) -> Place:
        return self.dagster.place


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place of the test's own, with empty buckets."""
    return new_place(tmp_path_factory.mktemp("place") / "home")


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """`dg dev` over small buckets, with all sensors on."""
    place = new_place(tmp_path_factory.mktemp("platform") / "home")
    recent, *old = (
        {made.model: place.partition(made) for made in place.publish(now=now)}
        for now in (None, *map(long_ago, DAYS_AGO))
    )
    with dagster_dev(place) as running:
        yield Platform(running, recent, tuple(old))

"""A weather worker dies while it creates its repository, between the two objects of an empty one.

Icechunk refuses such a place for ever, so the next worker must not meet it.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import icechunk
import pytest

from ingest_platform_tests.crash.gate import Gate
from ingest_platform_tests.crash.weather_scene import Scene, View
from ingest_platform_tests.services.s3 import S3Server


@pytest.fixture
def gate(s3_server: S3Server) -> Iterator[Gate]:
    """The way to the S3 server, which lets a given number of the repository's writes pass."""
    with Gate.before(s3_server.endpoint) as gate:
        yield gate


@pytest.mark.case(21)
@pytest.mark.parametrize("objects", [1, 2])
def test_any_part_of_an_empty_repository_is_left_behind(
    objects: int, untouched: Scene, clean_first: View, tmp_path: Path
) -> None:
    """Else a partition whose first worker died at the wrong moment never gets published."""
    untouched.kill("after claim")
    with untouched.opened() as (catalog, store):
        (row,) = catalog.partitions()
        assert row.uri is not None
        assert store.folder is not None
        parts = _objects_of_a_new_repository(tmp_path / "new")
        for part in parts[:objects]:
            target = store.folder / row.uri / part.relative_to(tmp_path / "new")
            target.parent.mkdir(parents=True)
            shutil.copyfile(part, target)
    untouched.rescue()

    assert len(parts) == 2
    untouched.check_healed(clean_first)
    with untouched.opened() as (catalog, store):
        (healed,) = catalog.partitions()
        assert healed.uri != row.uri
        assert set(store.list_uris()) == {row.uri, healed.uri}


@pytest.mark.case(21)
@pytest.mark.parametrize("writes", [1, 2])
def test_a_death_between_two_writes_of_create_on_s3_heals(
    writes: int, gate: Gate, untouched_servers: Scene, clean_first: View
) -> None:
    """Else on S3 a partition whose first worker died at the wrong moment never gets published."""
    through_gate = replace(
        untouched_servers, environ={**untouched_servers.environ, "AWS_ENDPOINT_URL": gate.endpoint}
    )
    gate.let_pass(writes, below="/weather.hrrr/")
    (worker,) = through_gate.crew.send(through_gate.order(owner="victim"))
    gate.wait_until_shut()
    worker.process.kill()
    worker.process.wait()
    untouched_servers.rescue()

    untouched_servers.check_healed(clean_first)
    with untouched_servers.opened() as (_, store):
        assert len(list(store.list_uris())) == 2


def _objects_of_a_new_repository(folder: Path) -> list[Path]:
    """In the order in which they were written."""
    icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)), spec_version=1)
    return sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)

"""The import on every ledger and store that it may run on, its snapshots of files, and the rows it leaves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ingest_platform.errors import StoreUnavailable
from ingest_platform.silo.ingest import import_organism, needs_serving
from ingest_platform.silo.served import indexes
from ingest_platform.storage.manifest import get_files, manifest_path, missing_files, put_snapshot
from ingest_platform.storage.store import Store, open_store
from ingest_platform_tests.contract.ledger_world import CYCLE, SOURCE, World, sighting
from ingest_platform_tests.contract.test_store import on_s3
from ingest_platform_tests.services.s3 import S3Server
from ingest_platform_tests.silo_station import Runner, new_station
from ingest_platform_tests.silo_world import TWELVE, answer, record

URI = "silo/organism/a1b2"


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store((tmp_path / "data").as_uri())
    return on_s3(request.getfixturevalue("s3_server"))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two files, one of which goes to S3 in parts."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "small").write_bytes(b"small")
    (folder / "large").write_bytes(bytes(range(256)) * 50_000)
    return {"index/small": folder / "small", "index/large": folder / "large", "body": folder / "small"}


def test_a_snapshot_of_files_comes_back_to_the_byte(
    store: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    """Else an index that is restored from the store is not the one that was built."""
    manifest = put_snapshot(store, URI, "1-x", files, {"rows": 12})

    get_files(store, URI, "1-x", "index", tmp_path / "back")

    assert manifest.size_bytes == sum(path.stat().st_size for path in files.values())
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {
        name: files[f"index/{name}"].read_bytes() for name in ("small", "large")
    }
    assert json.loads(store.get(manifest_path(URI, "1-x")))["about"] == {"rows": 12}
    assert list(missing_files(store, URI, "1-x")) == []


def test_damaged_bytes_are_not_handed_out(store: Store, files: dict[str, Path], tmp_path: Path) -> None:
    """Else a disk's bit flip is served as a genome."""
    put_snapshot(store, URI, "1-x", files, {})
    store.put(f"{URI}/1-x/index/small", b"smalL")

    with pytest.raises(StoreUnavailable, match=r"index/small: expected .* found"):
        get_files(store, URI, "1-x", "index", tmp_path / "back")


def test_one_snapshot_goes_and_its_neighbours_stay(store: Store, files: dict[str, Path]) -> None:
    """Else old snapshots cannot be collected, or the live one goes with them."""
    for name in ("1-x", "2-y"):
        put_snapshot(store, URI, name, files, {})

    store.delete_below(URI, "1-x")

    assert store.names_below(URI) == ("2-y",)
    assert store.names_below("silo/organism/none") == ()
    assert list(missing_files(store, URI, "2-y")) == []


@pytest.mark.silo_case(1)
@pytest.mark.silo_case(17)
def test_an_import_on_postgresql_and_s3_heals_its_folder_from_there(
    fresh_database: str, s3_server: S3Server, tmp_path: Path
) -> None:
    """Else it works on a laptop only."""
    remote = on_s3(s3_server)
    with new_station(tmp_path, environ={"INGEST_CATALOG_URL": fresh_database}) as place:
        remote.bind(place.catalog.ledger_id)
        place.rails = replace(place.rails, store=remote)
        place.server.release(answer(TWELVE, '"e1"'))
        assert place.round().what == "imported"
        shutil.rmtree(place.organism.output)
        assert needs_serving(place.rails, place.organism)

        healed = place.ingest()
        place.server.release(answer([*TWELVE, record(12)], '"e2"'))

        assert healed.error is None
        assert place.served is not None
        assert place.round().what == "imported"
        assert place.served.timestamp == place.index.index_timestamp
        assert place.index.rows == 13


@pytest.mark.silo_case(16)
def test_an_index_of_a_runner_that_the_ledger_did_not_take_is_not_served(tmp_path: Path) -> None:
    """Else SILO's API shows an index of which nobody knows the ETag."""
    with new_station(tmp_path) as place:
        runner = Runner(lambda: place.at, output=place.organism.output)
        place.rails = replace(place.rails, choose_engine=lambda _organism, _environ: runner)
        place.server.release(answer(TWELVE, '"e1"'))
        assert place.round().what == "imported"
        before = indexes(place.organism.output)
        place.server.release(answer([*TWELVE, record(12)], '"e2"'))

        def full(point: str) -> None:
            if point == "before store":
                raise StoreUnavailable("the store is full")

        place.poll()
        rails = replace(place.rails, at=full)
        failed = import_organism(rails, place.organism, owner="test")
        assert failed.what == "failed"
        assert indexes(place.organism.output) == before

        place.advance(minutes=1)
        assert place.ingest().what == "imported"
        assert len(indexes(place.organism.output)) == 2


def test_trim_leaves_what_is_published_and_what_is_to_be_tried(ledger: World) -> None:
    """Else a partition that never ends gathers a row a minute, or loses a version that waits."""
    for number in range(3):
        ledger.ingested(sighting("f000", etag=f"e{number}", minute=number), snapshot=f"s{number}")
    ledger.seen(sighting("f000", etag="e3", minute=3))
    ledger.seen(sighting("f001", etag="other", minute=0))

    assert ledger.catalog.trim(SOURCE, CYCLE) == 2

    assert ledger.states() == {
        ("f000", "e2"): "ingested",
        ("f000", "e3"): "pending",
        ("f001", "other"): "pending",
    }
    assert ledger.live() == {"f000": "e2"}
    assert ledger.catalog.trim(SOURCE, CYCLE) == 0
    assert ledger.catalog.trim(SOURCE, "never seen") == 0

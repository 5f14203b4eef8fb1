"""A store may lie where others keep their things: what is not named as the ledger names things is theirs."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_platform.operations.reconcile import ALWAYS_FEW
from ingest_platform.storage.store import LABEL, NAME, open_store
from ingest_platform_tests.contract.ledger_world import SOURCE, fresh_sqlite, sighting, world
from ingest_platform_tests.contract.ledger_world import World as Ledger
from ingest_platform_tests.contract.reconcile_world import DEAD, HRRR, PARTITION, ingested, look, world_on
from ingest_platform_tests.contract.retention_world import (
    folder_of_nobody,
    give_to_nobody,
    unwritable,
)
from ingest_platform_tests.weather_world import World

RANDOM = "0123456789abcdef01234567"
# Where a uri would lie, and each thing but one as in ours.
FOREIGN = [
    f"compute_logs/{PARTITION}/{RANDOM}/out",
    f"weather.other/{PARTITION}/{RANDOM}/chunks/c",
    f"{HRRR.source_name}/{PARTITION}/copy-by-hand/chunks/c",
    f"{HRRR.source_name}/{PARTITION}/{RANDOM.upper()}/chunks/c",
    f"{HRRR.source_name}/{PARTITION}/{RANDOM}0/chunks/c",
    f"{HRRR.source_name}/{PARTITION}/{RANDOM[1:]}/chunks/c",
    f"{HRRR.source_name}/.Trash-1000/{RANDOM}/chunks/c",
    f"{HRRR.source_name}/{PARTITION}/{RANDOM}",  # an object, and no tree
]


@pytest.fixture(params=["sqlite and folder", "postgresql and s3 root"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A store whose root is not ours alone, with a published partition, and things of others."""
    place = world_on(request.param, request, tmp_path)
    ingested(place)
    for path in FOREIGN:
        obstore.put(place.rails.store._open(), path, b"theirs")
    return place


@pytest.mark.case(24)
def test_bytes_that_the_ledger_never_named_so_are_not_ours_to_delete(shared: World) -> None:
    """Else a bucket that also keeps Dagster's logs, or a folder of a shared mount, is emptied at night."""
    store = shared.rails.store
    store.put(f"{DEAD}/chunks/c", b"x")

    done = look(shared, apply=True, max_share=1.0)

    assert [orphan.uri for orphan in (*done.orphans, *done.young)] == [DEAD]
    assert [orphan.uri for orphan in done.removed] == [DEAD]
    assert done.stored == 2
    assert done.well, done.message
    for path in FOREIGN:
        assert bytes(obstore.get(store._open(), path).bytes()) == b"theirs", path


def test_what_others_keep_beside_us_does_not_stop_the_cleaning(shared: World) -> None:
    """Else their files count as orphans, no share of the store is small enough, and ours stay for ever."""
    store = shared.rails.store
    store.put(f"{DEAD}/chunks/c", b"x")
    for number in range(2 * ALWAYS_FEW):
        obstore.put(store._open(), f"compute_logs/{number}/{RANDOM}/out", b"theirs")

    done = look(shared, apply=True)

    assert (done.refused, len(done.removed)) == (None, 1)


def test_the_orphans_of_partitions_that_the_ledger_forgot_are_ours(shared: World) -> None:
    """Else what is left of a partition whose tombstone is gone fills the disk for ever."""
    forgotten = f"{HRRR.source_name}/2020-01-01T00/{RANDOM}"
    shared.rails.store.put(f"{forgotten}/chunks/c", b"x")

    done = look(shared, apply=True)

    assert [orphan.uri for orphan in done.removed] == [forgotten]


@pytest.mark.parametrize("place", ["", f"{SOURCE}/"])
def test_a_folder_that_only_root_may_read_does_not_stop_the_listing(place: str) -> None:
    """Else a store on an ext4 disk of its own, which has lost+found in its root, is never reconciled."""
    with folder_of_nobody() as folder:
        store = open_store(folder.as_uri())
        store.put(f"{SOURCE}/2026/{RANDOM}/chunks/c", b"x")
        closed = folder / place / "lost+found"
        closed.mkdir(mode=0o700)
        give_to_nobody(folder, but=closed)

        with closed_to_us(closed):
            with pytest.raises(PermissionError):
                list(closed.iterdir())
            assert list(store.list_uris({SOURCE})) == [f"{SOURCE}/2026/{RANDOM}"]


@contextmanager
def closed_to_us(folder: Path) -> Iterator[None]:
    """Nobody but root may read it, and we are not root."""
    with unwritable(folder):
        if os.geteuid() == folder.stat().st_uid:
            folder.chmod(0)
        yield


@settings(max_examples=30, deadline=None)  # each example copies a ledger
@given(key=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
def test_whatever_the_ledger_names_has_the_form_of_a_uri(sqlite_template: Path, key: str) -> None:
    """Else reconcile takes our own orphans for somebody else's, and never deletes one."""
    with (
        tempfile.TemporaryDirectory() as folder,
        world(fresh_sqlite(sqlite_template, Path(folder))) as ledger,
    ):
        uri = _named(ledger, key)

    source, label, name = uri.split("/")
    assert source == SOURCE
    assert LABEL.fullmatch(label), label
    assert NAME.fullmatch(name), name


def _named(ledger: Ledger, key: str) -> str:
    ledger.seen(sighting(partition=key, event_end=ledger.clock.at))
    return ledger.claimed(key).uri

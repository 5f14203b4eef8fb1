"""Objects that are there and hold nothing, or half: what a power cut leaves of unflushed files."""

from collections.abc import Callable
from pathlib import Path

import obstore
import pytest

from ingest_platform.errors import StoreUnavailable
from ingest_platform.storage import repository
from ingest_platform.storage.store import Store
from ingest_platform_tests.contract.reconcile_world import HRRR, ingested, look, paths_below, world_on
from ingest_platform_tests.weather_world import World

KINDS = ["snapshots", "manifests", "chunks", "refs/branch.main"]
TEARS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "half, then zeros": lambda whole: whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
    "zeros": lambda whole: bytes(len(whole)),
}
# Icechunk has no checksum of a chunk: bytes of the right number are not told from the right bytes.
UNSEEN = {("chunks", "half, then zeros"), ("chunks", "zeros")}


@pytest.fixture(params=["sqlite and folder", "postgresql and s3"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return world_on(request.param, request, tmp_path)


def tear(place: World, kind: str, how: str) -> str:
    """Damage what the published snapshot needs of this kind; returns the path."""
    before = ingested(place)
    store = place.rails.store
    path = paths_below(store, f"{before.uri}/{kind}")[0]
    if kind == "snapshots":
        path = f"{before.uri}/snapshots/{before.snapshot}"
    store.put(path, TEARS[how](store.get(path)))
    return path


@pytest.mark.case(24)
def test_a_snapshot_without_bytes_is_lost_at_the_first_look(here: World) -> None:
    """Else a power cut stops a partition for ever: each ingest of it fails, and each reconcile says well."""
    torn = tear(here, "snapshots", "nothing")
    with pytest.raises(StoreUnavailable):
        _ingest_another(here)

    done = look(here, apply=True)
    here.advance(hours=1)
    _ingest_another(here)

    assert [loss.missing for loss in done.repaired] == [(torn,)]
    assert done.well, done.message
    assert here.open(HRRR).load().sizes["lead"] == 3


@pytest.mark.case(24)
@pytest.mark.parametrize(
    ("kind", "how"),
    [(k, h) for k in KINDS for h in TEARS if (k, h) not in UNSEEN and h != "half, then zeros"],
)
def test_a_deep_look_finds_an_object_that_is_not_what_was_written(kind: str, how: str, here: World) -> None:
    """Else a torn file is called a store that is away, every night, and nobody fetches the cycle again."""
    torn = tear(here, kind, how)

    done = look(here, apply=True, deep=True)
    here.ingest(HRRR)

    assert [(*loss.missing, *loss.torn) for loss in done.repaired] == [(torn,)], done.message
    assert done.requeued_objects == 2
    assert done.well, done.message
    assert here.open(HRRR).load().sizes["lead"] == 2
    assert look(here, apply=False, deep=True).lost == ()


@pytest.mark.parametrize("kind", ["snapshots", "manifests"])
def test_an_object_with_a_hole_is_found_too(kind: str, place: World) -> None:
    """Else only those tears are mended that shorten a file."""
    torn = tear(place, kind, "half, then zeros")

    seen = look(place, apply=False, deep=True)

    assert [(loss.missing, loss.torn) for loss in seen.lost] == [((), (torn,))], seen.message


@pytest.mark.parametrize("point", ["second look", "after lease"])
def test_an_object_that_heals_while_we_look_is_not_lost(
    point: str, place: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a cache that gave half a file once costs a cycle."""
    before = ingested(place)
    store = place.rails.store
    path = f"{before.uri}/snapshots/{before.snapshot}"
    whole = store.get(path)
    store.put(path, whole[:50])

    if point == "second look":
        read = repository._look
        looked: list[str] = []

        def look_again(store: Store, uri: str, snapshot: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
            if looked:
                store.put(path, whole)
            looked.append(uri)
            return read(store, uri, snapshot)

        monkeypatch.setattr(repository, "_look", look_again)
    done = look(
        place,
        apply=True,
        deep=True,
        at=lambda passed: store.put(path, whole) if passed == point else None,
    )

    assert (done.lost, done.repaired) == ((), ())
    assert ("could not be read" in done.message) == (point == "second look")
    assert place.states(HRRR) == ["ingested", "ingested"]
    assert place.catalog.partitions()[0].lease_owner is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_that_may_not_be_read_is_trouble_and_not_torn(
    kind: str, place: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a disk with a bad sector, or a right that was taken away, counts as bytes that are gone."""
    tear(place, kind, "half")

    def refuse(store: Store, path: str) -> bytes:
        raise StoreUnavailable(f"{store.url}: could not read {path}: input/output error")

    monkeypatch.setattr(Store, "get", refuse)
    monkeypatch.setattr(Store, "verify", lambda *_: None)

    done = look(place, apply=True, deep=True)

    assert (done.lost, done.repaired) == ((), ())
    assert "could not read" in done.message
    assert not done.well


def test_what_a_newer_icechunk_wrote_is_not_torn(place: World) -> None:
    """Else going back to an older version of this program fetches the whole archive again."""
    before = ingested(place)
    path = f"{before.uri}/snapshots/{before.snapshot}"
    whole = place.rails.store.get(path)
    version = 12 + 24  # behind the magic numbers and the name of the writing library
    obstore.put(place.rails.store._open(), path, whole[:version] + bytes([99]) + whole[version + 1 :])

    done = look(place, apply=True, deep=True)

    assert (done.lost, done.repaired) == ((), ())
    assert "Icechunk format version 99" in done.message


def _ingest_another(place: World) -> None:
    place.put_lead(HRRR, 2)
    place.ingest(HRRR)

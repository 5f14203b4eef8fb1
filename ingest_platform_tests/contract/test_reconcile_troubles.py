"""When store or ledger do not answer: reconcile judges nothing that it could not read."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from ingest_platform.errors import PermanentError, StoreUnavailable
from ingest_platform.operations.reconcile import UNANSWERED_ENOUGH, Findings, reconcile
from ingest_platform.operations.results import RECONCILE, last
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.store import Store, open_store
from ingest_platform_tests.contract.ledger_world import SOURCE, World, cycles, sighting
from ingest_platform_tests.faulty_server import Fault, FaultyServer, Refuse, Request, faulty_server

NOW = datetime(2026, 11, 22, tzinfo=UTC)  # a day after the server's objects were written
GONE, KEPT, REFUSED = cycles(3)
ORPHAN, OTHER = (f"{SOURCE}/2026/{digit * 24}" for digit in "ab")
DENIED = Refuse(403, body=b"<Error><Code>AccessDenied</Code></Error>")


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.fixture
def store(server: FaultyServer, ledger: World) -> Store:
    """Three published partitions, the first without its snapshot, and an orphan."""
    server.put("ours", "p/ledger-id", ledger.catalog.ledger_id.encode())
    server.put("ours", f"p/{ORPHAN}/chunks/c", b"x")
    for key in (GONE, KEPT, REFUSED):
        claim = ledger.ingested(sighting(f"{key}/f000", partition=key), partition=key)
        if key != GONE:
            server.put("ours", f"p/{claim.uri}/snapshots/s1", b"x")
    return open_store("s3://ours/p", credentials=Credentials("a", "b"), endpoint=server.endpoint)


def look(
    ledger: World, store: Store, *, apply: bool = True, at: Callable[[str], None] = lambda _: None
) -> Findings:
    return reconcile(ledger.catalog, store, now=NOW, apply=apply, owner="reconcile", at=at)


def failing(ending: str, fault: Fault, method: str = "HEAD") -> Callable[[Request], Fault | None]:
    return lambda request: fault if request.method == method and request.key.endswith(ending) else None


def uri_of(ledger: World, key: str) -> str:
    (row,) = (row for row in ledger.catalog.partitions() if row.partition == key)
    assert row.uri is not None
    return row.uri


@pytest.mark.parametrize("status", [403, 400])
def test_a_partition_whose_look_fails_is_not_lost_and_stops_no_other(
    status: int, ledger: World, store: Store, server: FaultyServer
) -> None:
    """Else one denied read fetches a cycle again that was never gone, or hides one that is."""
    server.rule = failing(f"{uri_of(ledger, REFUSED)}/snapshots/s1", Refuse(status, body=DENIED.body))

    done = look(ledger, store)

    assert [loss.partition for loss in done.repaired] == [GONE]
    assert [loss.partition for loss in done.lost] == [GONE]
    assert len(done.removed) == 1
    assert len(done.troubles) == 1
    assert "snapshots/s1" in done.troubles[0]
    assert not done.well
    assert ledger.live(REFUSED)
    kept = last(ledger.catalog.gauges(), RECONCILE)
    assert kept is not None
    assert (kept.at, sum(kept.numbers.values())) == (NOW, 1)
    assert "could not look at" in kept.message


def test_a_listing_that_fails_calls_nothing_an_orphan(
    ledger: World, store: Store, server: FaultyServer
) -> None:
    """Else half a listing reads as half a store."""
    server.rule = lambda request: DENIED if "prefix" in request.query else None

    with pytest.raises(PermanentError, match="could not list"):
        look(ledger, store)

    assert ledger.count("partitions_repaired_total") == 0
    assert any(ORPHAN in key for key in server.buckets["ours"])


def test_an_orphan_that_may_not_be_deleted_is_told_and_stops_no_other(
    ledger: World, store: Store, server: FaultyServer
) -> None:
    """Else a missing right fills the disk in silence."""
    server.undeletable.add(f"p/{ORPHAN}/chunks/c")
    server.put("ours", f"p/{OTHER}/chunks/c", b"x")

    done = look(ledger, store)

    assert [orphan.uri for orphan in done.removed] == [OTHER]
    assert [getattr(item, "uri", "") for item in done.left] == [ORPHAN]
    assert "could not delete" in done.message
    assert ledger.count("orphans_removed_total") == 1


def test_a_store_of_another_ledger_is_refused(ledger: World, store: Store, server: FaultyServer) -> None:
    """Else a test system cleans up production."""
    server.put("ours", "p/ledger-id", b"production")
    before = dict(server.buckets["ours"])

    with pytest.raises(PermanentError, match="found production"):
        look(ledger, store)

    assert server.buckets["ours"] == before


def test_a_disk_that_goes_away_in_between_loses_no_partition(ledger: World, tmp_path: Path) -> None:
    """Else a restart of the file server fetches the whole archive again."""
    store = open_store((tmp_path / "data").as_uri())
    store.bind(ledger.catalog.ledger_id)
    claim = ledger.ingested()
    store.put(f"{claim.uri}/snapshots/s1", b"x")

    def unmount(point: str) -> None:
        if point == "after read":
            shutil.rmtree(tmp_path / "data")
            (tmp_path / "data").mkdir()

    with pytest.raises(PermanentError, match="found none"):
        look(ledger, store, at=unmount)

    assert ledger.live()
    assert ledger.catalog.partitions()[0].lease_owner is None


def test_a_disk_that_goes_away_under_the_lease_empties_no_row(ledger: World, tmp_path: Path) -> None:
    """Else the last look, which is to prevent mistakes, makes one, or leaves the partition locked."""
    store = open_store((tmp_path / "data").as_uri())
    store.bind(ledger.catalog.ledger_id)
    ledger.ingested()

    def unmount(point: str) -> None:
        if point == "after lease":
            shutil.rmtree(tmp_path / "data")
            (tmp_path / "data").mkdir()

    done = look(ledger, store, at=unmount)

    assert (len(done.lost), done.repaired) == (1, ())
    assert "found none" in done.message
    assert not done.well
    assert ledger.live()
    assert ledger.catalog.partitions()[0].lease_owner is None


def test_bytes_that_come_back_before_the_lease_are_not_lost(
    ledger: World, store: Store, server: FaultyServer
) -> None:
    """Else a network disk that stuttered costs a cycle."""
    path = f"p/{uri_of(ledger, GONE)}/snapshots/s1"

    def come_back(point: str) -> None:
        if point == "after lease":
            server.put("ours", path, b"x")

    done = look(ledger, store, at=come_back)

    assert (done.lost, done.repaired, done.requeued_objects) == ((), (), 0)
    assert done.well, done.message
    assert ledger.live(GONE)
    assert all(row.lease_owner is None for row in ledger.catalog.partitions())


def test_a_partition_that_a_worker_holds_is_left_to_the_next_reconcile(ledger: World, store: Store) -> None:
    """Else the rows are emptied while a worker commits to them."""
    ledger.seen(sighting(f"{GONE}/f001", partition=GONE))
    ledger.claimed(GONE, owner="worker")

    done = look(ledger, store)

    assert ([loss.partition for loss in done.lost], done.repaired) == ([GONE], ())
    assert "another worker holds it" in done.message
    assert not done.well


def test_a_purge_in_between_is_no_loss(ledger: World, store: Store) -> None:
    """Else retention at work looks like a disk that is dying."""

    lost_meanwhile = uri_of(ledger, REFUSED)

    def purge(point: str) -> None:
        if point == "after read":
            ledger.purged(REFUSED)
            store.delete_tree(lost_meanwhile)

    done = look(ledger, store, at=purge)

    assert (done.lost, done.troubles) == ((), ())
    assert len(done.removed) == 1


def test_a_ledger_that_fails_stops_everything_at_once(
    ledger: World, store: Store, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an empty answer of the ledger makes orphans of all."""
    before = dict(server.buckets["ours"])

    def fail(_: str | None = None) -> None:
        raise OperationalError("SELECT", None, ConnectionError())

    monkeypatch.setattr(ledger.catalog, "partitions", fail)

    with pytest.raises(OperationalError):
        look(ledger, store)

    assert server.buckets["ours"] == before


def test_a_store_that_is_away_is_asked_a_few_times_only(ledger: World, tmp_path: Path) -> None:
    """Else a reconcile of ten thousand partitions waits a day for a store that is switched off."""
    store = open_store((tmp_path / "data").as_uri())
    store.bind(ledger.catalog.ledger_id)
    keys = cycles(3 * UNANSWERED_ENOUGH)
    for key in keys:
        ledger.ingested(sighting(f"{key}/f000", partition=key), partition=key)

    class Away:
        """The store, which stops answering after its listing."""

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def head(self, path: str) -> None:
            raise StoreUnavailable(f"{path}: no answer")

    done = look(ledger, Away())  # type: ignore[arg-type]

    assert (done.lost, done.repaired) == ((), ())
    assert len(done.troubles) == UNANSWERED_ENOUGH
    assert not done.well
    assert all(ledger.live(key) for key in keys)

"""What the store does not delete stays marked and is told aloud, and all the rest goes nevertheless."""

import errno
import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.errors import PermanentError, StoreUnavailable
from ingest_platform.operations import retention
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.store import open_store
from ingest_platform_tests.contract.ledger_world import (
    LEASE,
    SOURCE,
    World,
    cycles,
    end_of,
    fresh_sqlite,
    sighting,
    world,
)
from ingest_platform_tests.contract.retention_world import (
    KEEP,
    Shelf,
    folder_of_nobody,
    give_to_nobody,
    on_s3,
    shelf_over,
    unwritable,
)
from ingest_platform_tests.faulty_server import FaultyServer, Refuse, Request, faulty_server
from ingest_platform_tests.services.s3 import S3Server

MOMENT = timedelta(microseconds=1)
NOW = end_of(cycles(4)[3]) + KEEP + MOMENT


@pytest.fixture
def shelf(ledger: World, request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return shelf_over(ledger, request, tmp_path)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as running:
        yield running


@pytest.mark.case(29)
def test_bytes_that_are_gone_already_count_as_deleted(shelf: Shelf) -> None:
    """Else a row whose bytes somebody deleted by hand is immortal."""
    keys = shelf.ingested_cycles(4)
    for row in shelf.ledger.catalog.partitions(SOURCE):
        assert row.uri is not None
        shelf.store.delete_tree(row.uri)

    shelf.live_until(NOW)
    purged = retention.purge(
        shelf.ledger.catalog, shelf.store, [shelf.policy()], now=NOW, owner="purge"
    )  # no reader looks: what it is shown is gone before the purge

    assert (len(purged.done), purged.error) == (len(keys), None)
    assert shelf.ledger.catalog.partitions(SOURCE) == ()


@pytest.mark.case(29)
def test_a_legal_hold_keeps_its_partition_marked_and_the_purge_says_so(
    ledger: World, s3_server: S3Server
) -> None:
    """Else bytes that nobody may delete are forgotten; or one of them stops retention for everybody."""
    client, bucket = s3_server.client(), f"held-{os.getpid()}-{ledger.url[:6]}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    shelf = Shelf(ledger, on_s3(s3_server, bucket))
    shelf.store.bind(ledger.catalog.ledger_id)
    keys = shelf.ingested_cycles(4)
    held = f"published/{_uri(shelf, keys[1])}/chunks/f001"
    client.put_object_legal_hold(Bucket=bucket, Key=held, LegalHold={"Status": "ON"})

    refused = shelf.purge(now=NOW)
    too_soon = shelf.purge(now=NOW)
    ledger.clock.advance(LEASE)
    still = shelf.purge(now=NOW)
    client.put_object_legal_hold(Bucket=bucket, Key=held, LegalHold={"Status": "OFF"})
    ledger.clock.advance(LEASE)
    freed = shelf.purge(now=NOW)

    _check_left_behind(refused, [keys[1]])
    assert [p.partition for p in refused.done] == [keys[0], keys[2], keys[3]]
    assert (too_soon.done, too_soon.left, too_soon.facts()["refused"]) == ((), (), 1)
    _check_left_behind(still, [keys[1]])
    assert [p.partition for p in freed.done] == [keys[1]]
    assert freed.error is None
    assert ledger.count("artifacts_purged_total") == 8
    shelf.check_tidy()


@pytest.mark.case(29)
def test_a_folder_that_may_not_be_written_keeps_its_partition_marked(sqlite_template: Path) -> None:
    """Else a purge without rights reports success, or tries for ever, silently. As root in CI, too."""
    with folder_of_nobody() as folder, world(fresh_sqlite(sqlite_template, folder)) as ledger:
        shelf = Shelf(ledger, open_store((folder / "data").as_uri()))
        shelf.store.bind(ledger.catalog.ledger_id)
        keys = shelf.ingested_cycles(4)
        protected = folder / "data" / _uri(shelf, keys[2]) / "chunks"
        give_to_nobody(folder, but=protected)

        with unwritable(protected):
            refused = shelf.purge(now=NOW)
        ledger.clock.advance(LEASE)
        freed = shelf.purge(now=NOW)

        _check_left_behind(refused, [keys[2]])
        assert [p.partition for p in refused.done] == [keys[0], keys[1], keys[3]]
        assert [p.partition for p in freed.done] == [keys[2]]
        shelf.check_tidy()


@pytest.mark.case(29)
def test_a_disk_that_became_read_only_is_told_as_a_refusal(
    ledger: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a purge on a disk that the kernel protects after an error waits for a better day, silently."""
    shelf = Shelf(ledger, open_store(tmp_path.as_uri()))
    shelf.store.bind(ledger.catalog.ledger_id)
    (key,) = shelf.ingested_cycles(1)

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    _check_left_behind(shelf.purge(now=NOW), [key])


@pytest.mark.case(29)
def test_what_stays_marked_is_neither_read_nor_ingested(ledger: World, server: FaultyServer) -> None:
    """Else readers meet half a partition, or a late lead is published into it."""
    shelf = _scripted(ledger, server)
    (key,) = _published(shelf, server, 1)
    server.undeletable.add(f"p/{_uri(shelf, key)}/chunks/f000")

    refused = shelf.purge(now=NOW)
    ledger.clock.advance(LEASE)

    _check_left_behind(refused, [key])
    assert shelf.state(key) == "purging"
    assert ledger.catalog.published(SOURCE, key) is None
    assert ledger.seen(sighting("late", partition=key)) == 0
    assert ledger.claim(key) is None
    assert shelf.planned(now=NOW) == [(SOURCE, key)]


def test_one_tree_that_fails_does_not_stop_the_others(ledger: World, server: FaultyServer) -> None:
    """Else a single broken partition, being the oldest, stops retention for ever."""
    shelf = _scripted(ledger, server)
    keys = _published(shelf, server, 4)
    broken = _uri(shelf, keys[0])
    server.rule = lambda request: Refuse(400) if broken in request.query.get("prefix", "") else None

    purged = shelf.purge(now=NOW)

    assert [p.partition for p in purged.done] == keys[1:]
    assert purged.refused == ()
    assert isinstance(purged.error, StoreUnavailable)
    assert keys[0] in str(purged.error)


def test_while_the_store_is_away_nothing_more_is_marked(
    ledger: World, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an outage takes everything old from its readers at once and frees nothing."""
    monkeypatch.setattr(retention, "BATCH_PARTITIONS", 2)
    shelf = _scripted(ledger, server)
    keys = _published(shelf, server, 4)
    away: list[bool] = []

    def refuse(_: Request) -> Refuse | None:
        return Refuse(400) if away else None

    server.rule = refuse
    policies = [shelf.policy(), shelf.policy(source="weather.other")]
    shelf.live_until(NOW)
    purged = retention.purge(
        ledger.catalog,
        shelf.store,
        policies,
        now=NOW,
        owner="purge",
        at=lambda point: away.append(True) if point == "after mark" else None,
    )
    away.clear()
    ledger.clock.advance(LEASE)
    healed = shelf.purge(*policies, now=NOW)

    assert purged.done == ()
    assert [left.purge.partition for left in purged.left] == keys[:2]
    assert isinstance(purged.error, StoreUnavailable)
    assert [p.partition for p in healed.done] == keys
    assert healed.error is None


def test_a_disk_that_is_unmounted_during_a_purge_stops_it(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an empty mount point reads as `all deleted`, batch after batch."""
    monkeypatch.setattr(retention, "BATCH_PARTITIONS", 2)
    folder = tmp_path / "data"
    with world(fresh_sqlite(sqlite_template, tmp_path)) as ledger:
        shelf = Shelf(ledger, open_store(folder.as_uri()))
        shelf.store.bind(ledger.catalog.ledger_id)
        keys = shelf.ingested_cycles(4)

        def unmount(point: str) -> None:
            if point == "after mark":
                folder.rename(tmp_path / "elsewhere")
                folder.mkdir()

        shelf.live_until(NOW)
        stopped = retention.purge(
            ledger.catalog, shelf.store, [shelf.policy()], now=NOW, owner="purge", at=unmount
        )

        assert shelf.open_partitions() == keys[2:]
        assert isinstance(stopped.error, PermanentError)
        assert "Is its disk mounted?" in str(stopped.error)


def _check_left_behind(purged: retention.Purged, keys: list[str]) -> None:
    assert [left.purge.partition for left in purged.refused] == keys
    assert purged.facts()["refused"] == len(keys)
    assert isinstance(purged.error, PermanentError)
    assert keys[0] in str(purged.error)
    assert "could not delete" in str(purged.error)


def _uri(shelf: Shelf, key: str) -> str:
    (row,) = (row for row in shelf.ledger.catalog.partitions(SOURCE) if row.partition == key)
    assert row.uri is not None
    return row.uri


def _scripted(ledger: World, server: FaultyServer) -> Shelf:
    """A store on a server that fails as it is told."""
    server.put("ours", "p/ledger-id", ledger.catalog.ledger_id.encode())
    return Shelf(
        ledger, open_store("s3://ours/p", credentials=Credentials("a", "b"), endpoint=server.endpoint)
    )


def _published(shelf: Shelf, server: FaultyServer, number: int) -> list[str]:
    """Partitions of which each object was put into the scripted server's memory."""
    keys = cycles(number)
    for key in keys:
        shelf.ledger.seen(sighting(f"{key}/f000", partition=key, slot="f000"))
        claim = shelf.ledger.claimed(key)
        for name in ("chunks/f000", "snapshots/s"):
            server.put("ours", f"p/{claim.uri}/{name}", b"x")
        shelf.ledger.commit(claim)
    return keys

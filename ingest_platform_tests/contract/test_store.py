"""What the published store promises, in a folder and on a real S3 server by http and https."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingest_platform.errors import PermanentError, StoreUnavailable
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.store import Store, open_store
from ingest_platform_tests.contract.retention_world import folder_of_nobody, give_to_nobody, unwritable
from ingest_platform_tests.faulty_server import faulty_server
from ingest_platform_tests.services.s3 import S3Server

URI = "weather.gfs/2026-11-21T00/00000000000000000000a1b2"
OTHER = "weather.gfs/2026-11-21T06/00000000000000000000c3d4"
HALF = "weather.hrrr/2026-11-21T06/00000000000000000000e5f6"
ESCAPES = ["", ".", "..", "../x", "a/../../x", "/etc", "a//b", "a/./b", "a/", "a\0b", "a\\b"]


@pytest.fixture(params=["file", "s3", "https"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match request.param:
        case "file":
            return open_store((tmp_path / "data").as_uri())
        case "s3":
            return on_s3(request.getfixturevalue("s3_server"))
        case _:
            return on_s3(request.getfixturevalue("s3_https_server"))


def on_s3(server: S3Server) -> Store:
    return open_store(
        f"s3://{server.fresh_bucket()}/published",
        credentials=Credentials(server.access_key, server.secret_key),
        endpoint=server.endpoint,
        region=server.region,
        ca_file=server.ca_path,
    )


def test_bytes_come_back_and_absence_is_told(store: Store) -> None:
    """Else reconcile cannot tell a lost snapshot from a healthy one."""
    store.put(f"{URI}/snapshots/s1", b"snapshot")

    seen = store.head(f"{URI}/snapshots/s1")

    assert seen is not None
    assert (seen.path, seen.size_bytes) == (f"{URI}/snapshots/s1", 8)
    assert abs(seen.last_modified - datetime.now(UTC)) < timedelta(minutes=5)
    assert store.get(f"{URI}/snapshots/s1") == b"snapshot"
    assert store.head(f"{URI}/snapshots/s2") is None
    with pytest.raises(StoreUnavailable, match="s2"):
        store.get(f"{URI}/snapshots/s2")


@pytest.mark.case(24)
def test_every_uri_that_holds_anything_is_listed(store: Store) -> None:
    """Else an orphan is never found, or a live repository is taken for one."""
    store.bind("ledger-1")
    store.put(f"{URI}/snapshots/s1", b"x")
    store.put(f"{URI}/chunks/c1", b"x")
    store.put(f"{OTHER}/config.yaml", b"x")
    store.put(f"{HALF}/refs/r", b"x")

    assert list(store.list_uris()) == [URI, OTHER, HALF]


def test_an_empty_store_lists_nothing(store: Store) -> None:
    """Else a new installation starts with an error."""
    assert list(store.list_uris()) == []


def test_deleting_takes_the_whole_tree_and_nothing_beside_it(store: Store) -> None:
    """Else a purge leaves bytes, or takes the neighbour whose name begins alike."""
    for number in range(7):
        store.put(f"{URI}/chunks/c{number}", b"x")
    store.put(f"{URI}5/chunks/c", b"x")
    store.put(f"{OTHER}/chunks/c", b"x")

    store.delete_tree(URI)

    assert store.weigh(f"{URI}5") is not None
    assert list(store.list_uris()) == [OTHER]
    assert store.weigh(URI) is None
    assert store.weigh(OTHER) is not None


@pytest.mark.case(29)
def test_what_is_gone_already_counts_as_deleted(store: Store) -> None:
    """Else a purge that died half-way can never end."""
    store.put(f"{URI}/chunks/c", b"x")

    store.delete_tree(URI)
    store.delete_tree(URI)
    store.delete_tree("never/there/atall")

    assert list(store.list_uris()) == []


@pytest.mark.case(22)
def test_a_deletion_interrupted_anywhere_is_finished_by_the_next(store: Store) -> None:
    """Else kill -9 in a purge leaves bytes that nobody names."""
    for folder in ("chunks", "manifests", "refs", "snapshots"):
        store.put(f"{URI}/{folder}/x", b"x")

    def die(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.delete_tree(URI, die)
    store.delete_tree(URI)

    assert store.weigh(URI) is None


@pytest.mark.case(23)
def test_a_writer_that_wakes_during_the_deletion_leaves_nothing(store: Store) -> None:
    """Else the last chunk of a late worker survives its partition."""
    store.put(f"{URI}/chunks/c0", b"x")
    late = [f"{URI}/chunks/c1", f"{URI}/refs/r1"]

    def write_late(_: str) -> None:
        if late:
            store.put(late.pop(), b"x")

    store.delete_tree(URI, write_late)

    assert not late
    assert store.weigh(URI) is None


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leads_out_of_the_root(store: Store, path: str) -> None:
    """Else one wrong row of the ledger deletes a disk."""
    verbs: list[Callable[[], object]] = [
        lambda: store.put(path, b"x"),
        lambda: store.get(path),
        lambda: store.head(path),
        lambda: store.delete_tree(path),
        lambda: store.weigh(path),
        lambda: store.icechunk_storage(path),
    ]
    for verb in verbs:
        with pytest.raises(PermanentError, match="no path below the store's root"):
            verb()


def test_only_a_uri_can_be_deleted(store: Store) -> None:
    """Else a cut uri in the ledger deletes all partitions of a source, or the marker."""
    store.bind("ledger-1")
    store.put(f"{URI}/chunks/c", b"x")

    for path in ("weather.gfs", "weather.gfs/2026-11-21T00", "ledger-id", f"{URI}/chunks"):
        with pytest.raises(PermanentError, match="source/partition/name"):
            store.delete_tree(path)

    assert list(store.list_uris()) == [URI]


def test_a_store_belongs_to_one_ledger(store: Store) -> None:
    """Else a test system's reconcile deletes production, or an unmounted disk counts as lost data."""
    with pytest.raises(PermanentError, match=r"found none.*mounted"):
        store.verify("ledger-1")
    store.bind("ledger-1")
    store.bind("ledger-1")
    store.verify("ledger-1")

    with pytest.raises(PermanentError, match="expected the marker of ledger ledger-2, found ledger-1"):
        store.bind("ledger-2")
    with pytest.raises(PermanentError, match="ledger-1"):
        store.verify("ledger-2")


def test_of_two_ledgers_that_bind_at_once_one_wins(store: Store) -> None:
    """Else both publish into one store."""
    outcomes: list[str] = []

    def bind(ledger: str) -> None:
        try:
            store.bind(ledger)
        except PermanentError:
            outcomes.append("refused")
        else:
            outcomes.append("bound")

    threads = [threading.Thread(target=bind, args=(f"ledger-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["bound", "refused", "refused", "refused"]


def test_icechunk_opens_a_repository_at_a_uri(store: Store) -> None:
    """Else the store and Icechunk disagree where a partition lies."""
    if store.ca_file:
        environment = {**os.environ, "SSL_CERT_FILE": str(store.ca_file)}
        # A process of its own: Icechunk reads the certificates once, at its first connection.
        subprocess.run([sys.executable, "-c", ROUND_TRIP, *_arguments(store)], env=environment, check=True)
    else:
        round_trip(store)


def round_trip(store: Store) -> None:
    """Create, commit, open by snapshot, delete."""
    import icechunk

    repository = icechunk.Repository.create(store.icechunk_storage(URI), spec_version=1)
    snapshot = repository.writable_session("main").commit("empty", allow_empty=True)
    store.sync()

    again = icechunk.Repository.open(store.icechunk_storage(URI))
    assert again.readonly_session(snapshot_id=snapshot).snapshot_id == snapshot
    assert list(store.list_uris()) == [URI]
    assert store.head(f"{URI}/snapshots/{snapshot}") is not None
    store.delete_tree(URI)
    with pytest.raises(icechunk.RepositoryNotFoundError):
        icechunk.Repository.open(store.icechunk_storage(URI))


ROUND_TRIP = """
import sys
from pathlib import Path
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.store import open_store
from ingest_platform_tests.contract.test_store import round_trip

url, endpoint, key, secret, ca_file = sys.argv[1:]
round_trip(open_store(url, credentials=Credentials(key, secret), endpoint=endpoint, ca_file=Path(ca_file)))
"""


def _arguments(store: Store) -> list[str]:
    assert store.endpoint
    assert store.credentials
    keys = store.credentials
    return [store.url, store.endpoint, keys.access_key_id, keys.secret_access_key, str(store.ca_file)]


def test_files_that_obstore_does_not_list_are_deleted_too(tmp_path: Path) -> None:
    """Else the `name#1` files of killed writers fill the disk for ever."""
    store = open_store(tmp_path.as_uri())
    store.put(f"{URI}/refs/r", b"x")
    (tmp_path / URI / "refs" / "r#1").write_bytes(b"half")
    (tmp_path / URI / "top#1").write_bytes(b"half")

    store.delete_tree(URI)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_link_out_of_the_store_is_not_followed_by_a_purge(tmp_path: Path) -> None:
    """Else a link placed in the store deletes what it points to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"x")
    store = open_store((tmp_path / "data").as_uri())
    store.put(f"{URI}/refs/r", b"x")
    (tmp_path / "data" / URI / "link").symlink_to(outside)
    (tmp_path / "data" / "weather.gfs" / "2026-11-21T00" / "linked").symlink_to(outside)

    store.delete_tree(URI)
    with pytest.raises(PermanentError, match="link"):
        store.delete_tree("weather.gfs/2026-11-21T00/linked")

    assert (outside / "keep").exists()


@pytest.mark.case(29)
def test_a_refused_deletion_is_a_permanent_error(s3_server: S3Server) -> None:
    """Else the purge forgets bytes it could not delete."""
    owner = on_s3(s3_server)
    owner.put(f"{URI}/chunks/c", b"x")
    stranger = open_store(
        owner.url,
        credentials=Credentials(s3_server.access_key, "wrong"),
        endpoint=s3_server.endpoint,
        region=s3_server.region,
    )

    with pytest.raises(PermanentError, match="could not delete"):
        stranger.delete_tree(URI)

    assert list(owner.list_uris()) == [URI]


@pytest.mark.case(29)
def test_one_refused_object_among_many_is_a_permanent_error() -> None:
    """Else a purge without the right to delete some objects goes on for ever, or forgets them."""
    with faulty_server() as server:
        store = open_store("s3://ours/p", credentials=Credentials("a", "b"), endpoint=server.endpoint)
        for number in range(3):
            server.put("ours", f"p/{URI}/chunks/c{number}", b"x")
        server.undeletable.add(f"p/{URI}/chunks/c1")

        with pytest.raises(PermanentError, match="could not delete"):
            store.delete_tree(URI)
        assert list(server.buckets["ours"]) == [f"p/{URI}/chunks/c1"]

        server.undeletable.clear()
        store.delete_tree(URI)
        assert server.buckets["ours"] == {}


@pytest.mark.case(29)
def test_a_folder_that_may_not_be_written_is_a_permanent_error() -> None:
    """Else a purge without rights tries for ever, silently."""
    with folder_of_nobody() as folder:
        store = open_store(folder.as_uri())
        store.put(f"{URI}/chunks/c", b"x")
        give_to_nobody(folder, but=folder / URI / "chunks")

        with unwritable(folder / URI / "chunks"), pytest.raises(PermanentError, match="could not delete"):
            store.delete_tree(URI)
        assert list(store.list_uris()) == [URI]

        store.delete_tree(URI)
        assert list(store.list_uris()) == []


def test_a_missing_bucket_or_server_is_never_an_empty_store(s3_server: S3Server) -> None:
    """Else reconcile sees everything lost, or nothing to do."""
    keys = Credentials(s3_server.access_key, s3_server.secret_key)
    nowhere = open_store("s3://no-such-bucket/x", credentials=keys, endpoint=s3_server.endpoint)

    for verb in (
        lambda: list(nowhere.list_uris()),
        lambda: nowhere.weigh(URI),
        lambda: nowhere.delete_tree(URI),
        lambda: nowhere.verify("ledger-1"),
    ):
        with pytest.raises((StoreUnavailable, PermanentError)):
            verb()


def test_a_vanished_folder_is_never_an_empty_store(tmp_path: Path) -> None:
    """Else an unmounted disk reads as `everything was deleted`."""
    store = open_store((tmp_path / "data").as_uri())
    (tmp_path / "data").rmdir()

    with pytest.raises(StoreUnavailable):
        list(store.list_uris())
    with pytest.raises(PermanentError):
        store.verify("ledger-1")


@pytest.mark.parametrize(
    "url", ["", "data", "file:///", "file://host/x", "s3:///x", "https://x/y", "gs://b/x"]
)
def test_a_url_of_another_kind_is_refused_with_the_right_ones(url: str) -> None:
    """Else a typo writes to the working directory."""
    with pytest.raises(PermanentError, match="file:///absolute/folder or s3://bucket/prefix"):
        open_store(url)


def test_keys_are_never_printed() -> None:
    """Else a traceback publishes them."""
    keys = Credentials("AKIA-secret", "secret-secret", "secret-token")
    store = open_store("s3://b/p", credentials=keys)

    assert "secret" not in repr(keys) + str(keys) + repr(store) + repr(replace(keys, session_token=None))


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"AWS_ACCESS_KEY_ID": "a"}, None),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, Credentials("a", "b")),
        (
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"},
            Credentials("a", "b", "c"),
        ),
    ],
)
def test_keys_come_from_the_environment_given(environment: dict[str, str], found: Credentials | None) -> None:
    """Else half a pair of keys is used, or the process's own instead of the test's."""
    assert Credentials.from_environment(environment) == found

"""What every source bucket promises: a mirror, a scripted server, and a real S3 server, public and signed."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ingest_platform.errors import Damaged, PermanentError, SourceChanged
from ingest_platform.storage.bucket import Bucket, Listed, open_bucket
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.http import HttpTally
from ingest_platform.storage.patience import Patience
from ingest_platform_tests.faulty_server import FaultyServer, Refuse, faulty_server
from ingest_platform_tests.services.s3 import S3Server

PATIENCE = Patience(max_retries=2, first_delay_seconds=0.001)
BODY = bytes(range(256)) * 4
KEYS = ["a.t00z.f000", "a.t00z.f000.idx", "a.t00z.f001", "day/b+c d~e_=é", "day/f000", "dayx/f000"]


@dataclass
class World:
    """A bucket of one kind, and the ways around it that a test needs."""

    bucket: Bucket
    put: Callable[[str, bytes], object]
    open: Callable[[str], Bucket]  # another bucket of the same server


@pytest.fixture(params=["mirror", "scripted", "public", "signed", "https"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    match request.param:
        case "mirror":
            yield mirror(tmp_path)
        case "scripted":
            with faulty_server() as server:
                yield scripted(server)
        case "public":
            yield real(request.getfixturevalue("s3_server"), signed=False)
        case "signed":
            yield real(request.getfixturevalue("s3_server"), signed=True)
        case _:
            yield real(request.getfixturevalue("s3_https_server"), signed=True)


def mirror(root: Path) -> World:
    (root / "ours").mkdir()

    def put(key: str, body: bytes) -> None:
        path = root / "ours" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_bytes(body)
        new.replace(path)

    def opened(name: str) -> Bucket:
        return open_bucket(name, endpoint=root.as_uri(), credentials=None, patience=PATIENCE)

    return World(opened("ours"), put, opened)


def scripted(server: FaultyServer) -> World:
    server.buckets["ours"] = {}

    def opened(name: str) -> Bucket:
        return open_bucket(name, endpoint=server.endpoint, credentials=None, patience=PATIENCE)

    return World(opened("ours"), lambda key, body: server.put("ours", key, body), opened)


def real(server: S3Server, *, signed: bool) -> World:
    name = server.fresh_bucket(public=not signed)
    keys = Credentials(server.access_key, server.secret_key) if signed else None

    def opened(name: str) -> Bucket:
        return open_bucket(
            name, endpoint=server.endpoint, credentials=keys, patience=PATIENCE, ca_file=server.ca_path
        )

    def put(key: str, body: bytes) -> None:
        # A client each: over https versitygw refuses some of boto3's uploads on a connection used before.
        server.client().put_object(Bucket=name, Key=key, Body=body)

    return World(opened(name), put, opened)


def listed(bucket: Bucket, prefix: str = "", start_after: str | None = None) -> list[Listed]:
    return [entry for page in bucket.list(prefix, start_after=start_after) for entry in page]


def keys(bucket: Bucket, prefix: str = "", start_after: str | None = None) -> list[str]:
    return [entry.key for entry in listed(bucket, prefix, start_after)]


def test_a_listing_is_by_prefix_in_key_order(world: World) -> None:
    """Else discovery lists the whole of `atmos/`, or takes a neighbour's files."""
    for key in reversed(KEYS):
        world.put(key, BODY)

    assert keys(world.bucket) == KEYS
    assert keys(world.bucket, "a.t00z.f") == KEYS[:3]
    assert keys(world.bucket, "day/") == KEYS[3:5]
    assert keys(world.bucket, "day") == KEYS[3:]
    assert keys(world.bucket, "a.t00z.f000") == KEYS[:2]
    assert keys(world.bucket, "a.t00z.f", start_after="a.t00z.f000.idx") == ["a.t00z.f001"]


def test_nothing_there_is_an_empty_listing(world: World) -> None:
    """Else an hour without scans, which has no folder, is an alarm."""
    world.put("2026/325/00/x.nc", BODY)

    assert keys(world.bucket, "2026/325/01/") == []
    assert keys(world.bucket, "2026/325/00/x.nc/below/") == []


def test_a_missing_bucket_is_an_error_that_names_it(world: World) -> None:
    """Else a typo in a YAML file looks like a quiet day."""
    with pytest.raises(PermanentError, match="no-such-bucket"):
        keys(world.open("no-such-bucket"))


def test_listing_and_find_agree_about_an_object(world: World) -> None:
    """Else an unchanged object looks re-published at every look."""
    world.put("day/f000", BODY)

    (entry,) = listed(world.bucket, "day/")
    found = world.bucket.find("day/f000")

    assert found is not None
    assert (entry.key, entry.etag, entry.size_bytes) == (found.key, found.etag, found.size_bytes)
    assert abs((entry.last_modified - found.last_modified).total_seconds()) < 1
    assert entry.size_bytes == len(BODY)


def test_absent_is_none_for_find_and_an_error_for_reads(world: World) -> None:
    """Else an object deleted at the source becomes an empty one."""
    world.put("day/f000", BODY)

    assert world.bucket.find("day/f001") is None
    with pytest.raises(Damaged, match="day/f001"):
        world.bucket.read("day/f001", start=0, length=1, etag=None)
    with pytest.raises(Damaged, match="day/f001"):
        world.bucket.read_all("day/f001")


@pytest.mark.parametrize("key", KEYS)
def test_a_range_is_exactly_the_bytes_asked_for(world: World, key: str) -> None:
    """Else a message begins one byte late. Also for keys that need quoting."""
    world.put(key, BODY)
    (entry,) = (entry for entry in listed(world.bucket) if entry.key == key)

    assert world.bucket.read(key, start=0, length=1, etag=entry.etag) == BODY[:1]
    assert world.bucket.read(key, start=300, length=500, etag=entry.etag) == BODY[300:800]
    assert world.bucket.read(key, start=1023, length=1, etag=None) == BODY[1023:]
    assert world.bucket.read_all(key, etag=entry.etag)[0] == BODY


@pytest.mark.case(19)
@pytest.mark.parametrize(("start", "length"), [(1000, 100), (1024, 1), (5000, 10)])
def test_a_range_beyond_the_end_is_damage(world: World, start: int, length: int) -> None:
    """Else a truncated object gives a shorter message, and nobody notices."""
    world.put("f000", BODY)

    with pytest.raises(Damaged, match="f000"):
        world.bucket.read("f000", start=start, length=length, etag=None)


@pytest.mark.case(10)
def test_another_version_is_never_read_for_the_one_asked_for(world: World) -> None:
    """Else two forecasts are spliced into one grid."""
    world.put("f000", BODY)
    (old,) = listed(world.bucket)
    world.put("f000", BODY[::-1])
    (new,) = listed(world.bucket)

    assert old.etag != new.etag
    with pytest.raises(SourceChanged, match="new version"):
        world.bucket.read("f000", start=0, length=10, etag=old.etag)
    with pytest.raises(SourceChanged):
        world.bucket.read_all("f000", etag=old.etag)
    assert world.bucket.read("f000", start=0, length=10, etag=new.etag) == BODY[::-1][:10]


def test_an_empty_object_is_listed_and_read_as_empty(world: World) -> None:
    """Else the 0-byte objects of NOAA's buckets end the listing."""
    world.put("empty", b"")

    assert [entry.size_bytes for entry in listed(world.bucket)] == [0]
    assert world.bucket.read_all("empty")[0] == b""


@pytest.mark.case(2)
def test_a_long_listing_takes_as_many_requests_as_pages() -> None:
    """Else a tick lists everything again, or sees the first thousand only."""
    with faulty_server() as server:
        for number in range(2500):
            server.put("ours", f"day/f{number:04}", b"x")
        bucket = scripted_again(server)

        assert len(keys(bucket, "day/")) == 2500
        assert server.count() == 3
        assert keys(bucket, "day/", start_after="day/f2497") == ["day/f2498", "day/f2499"]
        assert server.count() == 4


def scripted_again(server: FaultyServer, tally: HttpTally | None = None) -> Bucket:
    return open_bucket("ours", endpoint=server.endpoint, credentials=None, patience=PATIENCE, tally=tally)


@pytest.mark.case(2)
def test_a_real_server_paginates_too(s3_server: S3Server) -> None:
    """Else pagination is right for our own imitation only."""
    name, client = s3_server.fresh_bucket(public=True), s3_server.client()
    for number in range(1005):
        client.put_object(Bucket=name, Key=f"day/f{number:04}", Body=b"")

    bucket = open_bucket(name, endpoint=s3_server.endpoint, credentials=None, patience=PATIENCE)
    pages = list(bucket.list("day/"))

    assert [len(page) for page in pages] == [1000, 5]


def test_a_closed_bucket_is_refused_at_once(s3_server: S3Server) -> None:
    """Else a missing permission reads as `not published yet`."""
    closed = s3_server.fresh_bucket()
    bucket = open_bucket(closed, endpoint=s3_server.endpoint, credentials=None, patience=PATIENCE)

    for attempt in (
        lambda: keys(bucket),
        lambda: bucket.find("x"),
        lambda: bucket.read("x", start=0, length=1, etag=None),
        lambda: bucket.read_all("x"),
    ):
        with pytest.raises(PermanentError, match=closed):
            attempt()


@pytest.mark.case(35)
def test_answers_are_counted_by_code_until_somebody_has_taken_them_down() -> None:
    """Else a throttled source is seen by nobody."""
    tally = HttpTally()
    with faulty_server() as server:
        server.put("ours", "f000", BODY)
        server.rule = lambda request: Refuse(503, "0") if request.number == 1 else None
        bucket = scripted_again(server, tally)

        keys(bucket)
        bucket.read("f000", start=0, length=5, etag=None)
        bucket.find("absent")

    once_each = {("ours", "200"): 1, ("ours", "503"): 1, ("ours", "206"): 1, ("ours", "404"): 1}
    with pytest.raises(ConnectionError, match="ledger"):
        fail_to_move(tally, once_each)
    with tally.taken() as answers:
        assert answers == {**once_each, ("ours", "206"): 2}
    with tally.taken() as answers:
        assert answers == {}


def fail_to_move(tally: HttpTally, expected: dict[tuple[str, str], int]) -> None:
    with tally.taken() as answers:
        assert answers == expected
        tally.count("ours", "206")
        raise ConnectionError("the ledger is away")


@pytest.mark.parametrize("key", ["../other/f000", "/etc/passwd", "day/../../f000", "", "link", "linked/f000"])
def test_no_key_leads_out_of_a_mirror(tmp_path: Path, key: str) -> None:
    """Else a key of a hostile listing reads our own files."""
    world = mirror(tmp_path)
    world.put("day/f000", BODY)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/f000").write_bytes(b"secret")
    (tmp_path / "ours/link").symlink_to(tmp_path / "other/f000")
    (tmp_path / "ours/linked").symlink_to(tmp_path / "other")

    with pytest.raises(PermanentError, match="leads out"):
        world.bucket.read(key, start=0, length=1, etag=None)
    with pytest.raises(PermanentError, match="leads out"):
        keys(world.bucket, "../other/")
    assert keys(world.bucket) == ["day/f000"]


def test_a_mirrors_file_written_in_place_is_another_version(tmp_path: Path) -> None:
    """Else a mirror that copies over a file under our hands gives half of each."""
    world = mirror(tmp_path)
    world.put("f000", BODY)
    (old,) = listed(world.bucket)
    with (tmp_path / "ours/f000").open("r+b") as file:
        file.write(b"new")
        os.utime(file.fileno(), (1, 1))

    with pytest.raises(SourceChanged):
        world.bucket.read("f000", start=0, length=3, etag=old.etag)


def test_the_real_buckets_are_asked_by_their_own_host_name() -> None:
    """Else AWS refuses buckets younger than its path-style sunset."""
    bucket = open_bucket(
        "noaa-gfs-bdp-pds", endpoint=None, credentials=None, region="us-east-1", patience=PATIENCE
    )

    assert vars(bucket)["_base_url"] == "https://noaa-gfs-bdp-pds.s3.us-east-1.amazonaws.com"

"""Where a fetch is tested: a mirror or a faulty server with one object in it, and the real file for it."""

import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from ingest_platform.catalog.model import SourceObject
from ingest_platform.storage.bucket import Bucket
from ingest_platform.storage.scratch import Scratch
from ingest_platform.weather.fetch import Fetched, fetch_messages
from ingest_platform.weather.framing import Framed, scan_messages
from ingest_platform.weather.idx import Identity
from ingest_platform.weather.model import Parameter, Source
from ingest_platform_tests.faulty_server import (
    FaultyServer,
)

BUCKET = "noaa-test"
KEY = "gfs.20230823/18/atmos/gfswave.f001"
PUBLISHED = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
LONG_AFTER = PUBLISHED + timedelta(hours=1)
GRACE = timedelta(minutes=10)
SOURCE = Source(since=PUBLISHED, bucket=BUCKET, key="{key}", index=".idx")
NAMES = ("WIND", "WDIR", "UGRD", "VGRD")


class Place(Protocol):
    """Somewhere a test can publish, and the platform can read."""

    bucket: Bucket

    def put(self, key: str, body: bytes, modified: datetime = PUBLISHED) -> SourceObject: ...


@dataclass
class Mirror:
    bucket: Bucket
    folder: Path

    def put(self, key: str, body: bytes, modified: datetime = PUBLISHED) -> SourceObject:
        path = self.folder / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (modified.timestamp(), modified.timestamp()))
        return discovered(self.bucket, key)


@dataclass
class Http:
    bucket: Bucket
    server: FaultyServer

    def put(self, key: str, body: bytes, modified: datetime = PUBLISHED) -> SourceObject:
        self.server.put(BUCKET, key, body, modified)
        return discovered(self.bucket, key)


def discovered(bucket: Bucket, key: str) -> SourceObject:
    """The object as discovery would see it."""
    (seen,) = (listed for page in bucket.list(key) for listed in page if listed.key == key)
    return SourceObject(1, BUCKET, key, seen.etag, seen.size_bytes, seen.last_modified, key, 1)


@dataclass
class Nasty:
    """The four-message file, its inventory, and what each message holds."""

    folder: Path

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    @property
    def messages(self) -> tuple[bytes, ...]:
        whole = self.read("ok4.grib2")
        frames = [part for part in scan_messages(whole) if isinstance(part, Framed)]
        return tuple(whole[frame.offset : frame.offset + frame.length] for frame in frames)

    def identify(self, payload: bytes) -> Identity:
        """What the file's own inventory says of these bytes; unknown bytes are another variable."""
        known = dict(zip(self.messages, NAMES, strict=True))
        return Identity(known.get(payload, "OTHER"), "surface", "1 hour fcst")


def parameters(*variables: str) -> list[Parameter]:
    return [
        Parameter(
            name=variable.lower(),
            units="1",
            long_name=variable,
            valid_range=(-1000, 1000),
            variable=variable,
            level="surface",
        )
        for variable in variables
    ]


def fetcher(place: Place, nasty: Nasty, folder: Path, executor: Executor) -> Callable[..., Fetched]:
    scratch = folder / "scratch"
    scratch.mkdir()

    def run(object: SourceObject, *, now: datetime = LONG_AFTER, wanted: tuple[str, ...] = NAMES) -> Fetched:
        try:
            return fetch_messages(
                place.bucket,
                object,
                SOURCE,
                parameters(*wanted),
                identify=nasty.identify,
                grace=GRACE,
                now=now,
                scratch=Scratch(scratch),
                executor=executor,
            )
        finally:
            assert list(scratch.iterdir()) == [], "a fetch leaves nothing behind"

    return run


def grids(fetched: Fetched) -> list[tuple[str | None, bytes]]:
    return [(message.parameter.variable, bytes(message.payload)) for message in fetched.messages]


Fetch = Callable[..., Fetched]

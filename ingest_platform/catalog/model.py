"""The ledger's value objects. Frozen; no I/O. Times are aware UTC datetimes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Sighting:
    """One version of one object, as a listing of the source shows it."""

    bucket: str
    key: str
    etag: str
    size_bytes: int
    version_time: datetime  # Last-Modified, or the creation stamp in the name where a slot spans keys
    partition: str
    event_end: datetime  # end of the partition's event time: retention counts from here
    slot: str  # the logical thing whose versions compete


@dataclass(frozen=True, slots=True)
class SourceObject:
    """A version that a claim holds."""

    id: int
    bucket: str
    key: str
    etag: str
    size_bytes: int
    version_time: datetime
    slot: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The lease on one partition. `token` is the only fence."""

    source: str
    partition: str
    partition_id: int
    token: int
    uri: str  # below the store's root; new and random while nothing is published
    snapshot: str | None  # what the ledger names; None: nothing published yet
    objects: tuple[SourceObject, ...]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One thing that readers can ask for. `details` fills the source's typed table."""

    name: str  # grid identity, unique in its partition
    size_bytes: int
    checksum: str
    transform_version: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """The object's artifacts are in the snapshot. With `error`, only the good part of them."""

    object: SourceObject
    artifacts: tuple[Artifact, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Postponed:
    """Not the object's fault: pending again, the attempt given back, as long as it takes."""

    object: SourceObject
    error: str
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The object's own fault: backoff, quarantined at the last attempt, at once if `permanent`."""

    object: SourceObject
    error: str
    permanent: bool = False


Outcome = Published | Postponed | Failed


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What readers may open: the pair the ledger names, with its artifacts, read in one statement."""

    partition: str
    uri: str
    snapshot: str
    artifacts: tuple[Mapping[str, object], ...]  # artifact columns joined with the typed table's

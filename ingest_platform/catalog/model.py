"""The ledger's value objects. Frozen; no I/O. Times are aware UTC datetimes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any


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
class Request:
    """A run that a partition needs. Numbered, so that no run key is ever used twice."""

    partition: str
    partition_id: int  # a partition that was forgotten and came back counts from 1 again
    number: int

    @property
    def run_key(self) -> str:
        return f"{self.partition}:{self.partition_id}.{self.number}"


@dataclass(frozen=True, slots=True)
class Expirable:
    """A partition that retention takes, and what that frees."""

    source: str
    partition: str
    event_end: datetime
    uri: str | None  # None: nothing was ever claimed, so the store holds nothing
    artifacts: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Purge:
    """The lease on a partition whose bytes are to be deleted. `token` is the only fence."""

    source: str
    partition: str
    partition_id: int
    token: int
    uri: str | None  # None: the store holds nothing, erase at once
    event_end: datetime
    artifacts: int  # what the mark found; nothing is added to a marked partition
    size_bytes: int


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
    artifacts: tuple[Mapping[str, Any], ...]  # artifact columns joined with the typed table's


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """One partition as the ledger has it. `purging` and `purged` are no longer read."""

    source: str
    partition: str
    event_end: datetime
    state: str
    uri: str | None
    snapshot: str | None
    pinned: bool
    requests: int
    lease_owner: str | None
    lease_until: datetime | None
    committed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One version of one object as the ledger has it."""

    id: int
    partition: str
    bucket: str
    key: str
    etag: str
    slot: str
    version_time: datetime
    size_bytes: int
    state: str
    attempts: int
    next_attempt_at: datetime | None  # None: at once, or never
    error: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """A source at a glance."""

    source: str
    horizon: datetime | None  # None: nothing was ever purged
    objects: Mapping[str, int]  # by state
    partitions: Mapping[str, int]  # by state
    artifacts: int
    size_bytes: int  # published
    newest_commit: datetime | None
    quarantined: tuple[ObjectRow, ...]  # the latest, with their reasons
    waiting: tuple[ObjectRow, ...]  # pending after an error, the latest to be tried again first


@dataclass(frozen=True, slots=True)
class SourceGauges:
    """A source's state in numbers that cost little at any size of the ledger."""

    source: str
    at: datetime  # the database's clock: ages are counted from it
    horizon: datetime | None  # None: nothing was ever purged
    cursor: str | None  # where discovery goes on; None: never listed
    pending: int  # objects that wait for a worker, those below included
    due: int  # of them: their time has come; those that a worker has in hand are among them
    retrying: int  # of them: after an error
    quarantined: int
    oldest_due: datetime | None  # version_time of the longest published due object; None: nothing is due
    partitions: Mapping[str, int]  # by state: open, purging, purged; a state that none is in is absent
    pinned: int  # open partitions that retention leaves alone
    leases: int  # partitions that a worker or a purge holds at this moment
    newest_commit: datetime | None  # None: nothing was ever published
    newest_open: str | None  # the greatest key of an open partition: a source's keys sort by time
    newest_published: str | None  # the same of those that readers can open


@dataclass(frozen=True, slots=True)
class Coverage:
    """What readers find in an open partition, counted. Without a snapshot nothing is found."""

    partition: str
    event_end: datetime
    snapshot: str | None
    leads: Mapping[int, int]  # seconds: grids
    grids: Mapping[str, int]  # by variable
    times: Mapping[str, int]  # by variable: distinct valid times
    newest: datetime | None  # cycle, scan start or valid time of the newest grid; None: there is none


@dataclass(frozen=True, slots=True)
class Count:
    """One counter: it only grows."""

    name: str
    labels: Mapping[str, str]
    value: float

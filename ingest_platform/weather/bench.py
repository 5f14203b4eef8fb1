"""One object's way into a draft: fetched, decoded, written. Its outcome says whose fault a failure is.

Knows nothing of claims, batches and the ledger. What fails for everybody (our store, the disk, the
memory) is raised; everything else costs this object alone, or one message of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from ingest_platform.catalog.model import Artifact, Failed, Outcome, Postponed, Published, SourceObject
from ingest_platform.errors import (
    Damaged,
    Incomplete,
    PermanentError,
    StoreUnavailable,
    TransientError,
)
from ingest_platform.storage.bucket import Bucket
from ingest_platform.storage.scratch import Scratch
from ingest_platform.weather import fetch, goes, grib, publish
from ingest_platform.weather.model import Grid, Kind, Model, Parameter, Rejected, SourceFile
from ingest_platform.weather.unusable import Unusable

log = logging.getLogger(__name__)

# The picture needs four cells a pixel, not the 60 million of a 0.5 km scan for as long as the run lasts.
DRAWN_CELLS = 4_000_000
# A new decoder that changes values must change this, so that readers can tell grids apart.
TRANSFORM_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one object, and what it leaves for the report."""

    outcome: Outcome
    bytes_read: int = 0
    absent: tuple[str, ...] = ()  # configured parameters that it did not have
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True, slots=True)
class Bench:
    """One batch's shared parts. Threads may ingest different objects at the same time."""

    model: Model
    draft: publish.Draft
    open_bucket: Callable[[str], Bucket]
    clock: Callable[[], datetime]
    scratch: Scratch
    decoders: ThreadPoolExecutor
    downloads: ThreadPoolExecutor
    picture: Callable[[Grid], None]  # is given the grids of the headline parameter, thinned

    def ingest(self, item: SourceObject, file: SourceFile | None) -> Done:
        """Fetch, decode and write one object. StoreUnavailable, OSError, MemoryError: not its business."""
        if file is None:
            return Done(Postponed(item, _unconfigured(item, self.model)))
        try:
            return self._store(item, file, self._fetch(item, file))
        except StoreUnavailable:
            raise
        except Damaged as error:
            return Done(Failed(item, str(error)))
        # A refused bucket is an outage, or lacks a right: once an operator has mended it, the object is good.
        except PermanentError as error:
            return Done(Postponed(item, str(error)))
        except TransientError as error:
            return Done(Postponed(item, str(error), self._wish(item, error)))

    def _wish(self, item: SourceObject, error: TransientError) -> timedelta | None:
        """How long to leave the object alone: as the source says, or as long as it has been half there.

        Without an inventory a look at half an object costs all its bytes, and a version that is older than
        the grace hardly grows. So the looks thin out; a new upload is a new version, and read at once.
        """
        if error.retry_after is not None:
            return timedelta(seconds=error.retry_after)
        age = self.clock() - item.version_time
        if isinstance(error, Incomplete) and age > timedelta(minutes=self.model.index_grace_minutes):
            return age
        return None

    def _fetch(self, item: SourceObject, file: SourceFile) -> _Harvest:
        bucket = self.open_bucket(item.bucket)
        match self.model.kind:
            case Kind.FORECAST:
                return self._fetch_forecast(bucket, item, file)
            case Kind.SATELLITE:
                (parameter,) = (p for p in self.model.parameters if p.band == file.band)
                payload = fetch.fetch_whole(bucket, item, executor=self.downloads)
                return _Harvest((partial(goes.decode, payload, parameter),), item.size_bytes)
            case Kind.RADAR:
                (parameter,) = (p for p in self.model.parameters if p.product == file.product)
                payload = fetch.fetch_gzip(bucket, item)
                return _Harvest((partial(grib.decode, payload, parameter, None),), item.size_bytes)

    def _fetch_forecast(self, bucket: Bucket, item: SourceObject, file: SourceFile) -> _Harvest:
        grace = timedelta(minutes=self.model.index_grace_minutes)
        fetched = fetch.fetch_messages(
            bucket,
            item,
            file.source,
            _parameters_at(self.model, file),
            identify=partial(grib.identify, parameters=self.model.parameters),
            grace=grace,
            # An inventory may be uploaded before its GRIB; that it fits is proven by the frames.
            index_lead=grace,
            now=self.clock(),
            scratch=self.scratch,
            executor=self.downloads,
        )
        if fetched.why_scanned is not None:
            log.warning("read without its inventory", extra={"key": item.key, "why": fetched.why_scanned})
        decoders = tuple(partial(grib.decode, m.payload, m.parameter, m.level) for m in fetched.messages)
        absent = tuple(f"{parameter.name} ({level})" for parameter, level in fetched.missing)
        return _Harvest(decoders, fetched.bytes_read, fetched.rejected, absent)

    def _store(self, item: SourceObject, file: SourceFile, harvest: _Harvest) -> Done:
        slot = _Slot(self.draft, file)
        futures = [self.decoders.submit(self._decode_and_write, decode, slot) for decode in harvest.decoders]
        artifacts, rejected = _collect(futures, list(harvest.rejected))
        reasons = "; ".join(f"{r.what}: {r.reason}" for r in rejected)
        if not artifacts:
            told = (
                f"{item.key}: no usable grid ({reasons or 'it holds no configured parameter'}). An older"
                " version, if there was one, stays live."
            )
            return Done(Failed(item, told), harvest.bytes_read, harvest.absent, tuple(rejected))
        wanted = len(artifacts) + len(rejected)
        partly = f"{len(rejected)} of {wanted} messages rejected: {reasons}" if rejected else None
        published = Published(item, tuple(artifacts), partly)
        return Done(published, harvest.bytes_read, harvest.absent, tuple(rejected))

    def _decode_and_write(self, decode: Callable[[], Grid], slot: _Slot) -> Artifact | Rejected:
        name = slot.file.key.rsplit("/", 1)[-1]
        try:
            grid = decode()
            _check_time(slot.file, grid)
        except (Damaged, PermanentError) as error:
            return Rejected(name, str(error), error.kind if isinstance(error, Unusable) else "decode")
        except (MemoryError, OSError):
            raise
        # Damaged bytes reach four libraries: whatever one of them raises costs this message alone.
        except Exception as error:  # noqa: BLE001 - it is told, with the message's name
            return Rejected(name, f"{type(error).__name__}: {error}", "decode")
        artifact = _artifact(slot, grid, slot.write(grid))
        if grid.parameter == _headline(self.model):
            self.picture(thinned(grid))
        return artifact


def thinned(grid: Grid) -> Grid:
    """Every n-th row and column of a large grid, as a copy that does not hold the rest."""
    step = max(1, round((grid.values.size / DRAWN_CELLS) ** 0.5))
    return replace(grid, values=grid.values[::step, ::step].copy())


@dataclass(frozen=True, slots=True)
class _Harvest:
    """What an object holds for us: one decoder a grid, run in the decode threads."""

    decoders: tuple[Callable[[], Grid], ...]
    bytes_read: int
    rejected: tuple[Rejected, ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(slots=True)
class _Slot:
    """The place of one object in the draft; what an older version left there goes before the first write."""

    draft: publish.Draft
    file: SourceFile
    lock: threading.Lock = field(default_factory=threading.Lock)
    erased: bool = False

    def write(self, grid: Grid) -> publish.Written:
        with self.lock:
            if not self.erased:
                publish.erase(self.draft, self.file)
                self.erased = True
        return publish.write(self.draft, self.file, grid)


def _unconfigured(item: SourceObject, model: Model) -> str:
    return (
        f"{item.key}: no longer in the configuration of {model.id}. Nothing was read, what is published of it"
        " stays. It waits: put its template or parameter back, or let retention take it."
    )


def _headline(model: Model) -> Parameter:
    """The parameter of the picture: the first that has one level, as a map has."""
    return next((p for p in model.parameters if not p.levels_hpa), model.parameters[0])


def _parameters_at(model: Model, file: SourceFile) -> tuple[Parameter, ...]:
    return tuple(p for p in model.parameters if file.lead != timedelta(0) or not p.not_at_lead_zero)


def _collect(
    futures: Sequence[Future[Artifact | Rejected]], rejected: list[Rejected]
) -> tuple[list[Artifact], list[Rejected]]:
    artifacts = []
    for future in as_completed(futures):
        result = future.result()
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            artifacts.append(result)
    return artifacts, rejected


def _check_time(file: SourceFile, grid: Grid) -> None:
    """Damaged if the message speaks of another cycle, lead or time than its object's name."""
    # ABI names carry the scan start to a tenth of a second, the file to a rounded float.
    slack = timedelta(seconds=1)
    lead = file.lead or timedelta(0)
    if abs(grid.reference_time - file.event_time) > slack or abs(grid.lead - lead) > slack:
        raise Damaged(
            f"{grid.parameter.name} is of {grid.reference_time:%Y-%m-%dT%H:%M:%S}Z + {grid.lead}, "
            f"expected {file.event_time:%Y-%m-%dT%H:%M:%S}Z + {lead} by the object's name"
        )


def _artifact(slot: _Slot, grid: Grid, written: publish.Written) -> Artifact:
    parameter = grid.parameter
    west, south, east, north = grid.geometry.bbox
    return Artifact(
        name=f"{slot.file.slot}/{parameter.name}/{grid.level}",
        size_bytes=written.size_bytes,
        checksum=written.checksum,
        transform_version=TRANSFORM_VERSION,
        details={
            "model": slot.file.model,
            "variable": parameter.name,
            "parameter": parameter.variable or parameter.product or f"C{parameter.band:02d}",
            "level": grid.level,
            "window": grid.window,
            "reference_time": grid.reference_time,
            "valid_time": grid.valid_time,
            "lead_seconds": int(grid.lead.total_seconds()),
            "west": west,
            "south": south,
            "east": east,
            "north": north,
            "array": written.array,
            "time_index": written.index,
            "level_index": written.level_index,
        },
    )

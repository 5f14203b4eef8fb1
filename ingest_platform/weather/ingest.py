"""Turns a partition's due objects into published grids: claim, fetch, decode, publish, commit.

One batch is one claim. Its objects are independent: a damaged one is recorded and its neighbours are
published. What fails for everybody (our store, the ledger) fails the batch, and nothing is lost:
the published snapshot stands and the objects are pending again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Artifact, Claim, Failed, Outcome, Postponed, Published, SourceObject
from ingest_platform.errors import Damaged, LostLease, PermanentError, Stale, StoreUnavailable, TransientError
from ingest_platform.storage.bucket import Bucket
from ingest_platform.storage.scratch import Scratch, scratch_folder
from ingest_platform.storage.store import Store
from ingest_platform.weather import fetch, goes, grib, publish
from ingest_platform.weather.keys import parse
from ingest_platform.weather.model import Grid, Kind, Model, Parameter, Rejected, SourceFile
from ingest_platform.weather.unusable import Unusable

log = logging.getLogger(__name__)

# Long enough for a stalled store call (icechunk gives up after 26 s), short enough that a killed run's
# partition is taken over within two minutes; the heartbeat renews it every third.
LEASE = timedelta(seconds=90)
# A cycle becomes visible in steps: sixteen GFS leads are about a minute of work on two cores.
BATCH_OBJECTS = 16
# While one object decodes, the next is fetched; each holds at most 86 messages (70 MB) in memory.
OBJECTS_IN_FLIGHT = 2
# The disk, the memory and the ledger are ours. What is not foreseen may be the object's doing: it uses an
# attempt, and is taken alone in the end.
NOT_THE_OBJECTS_FAULT = (OSError, MemoryError, SQLAlchemyError)
# The picture needs four cells a pixel, not the 60 million of a 0.5 km scan for as long as the run lasts.
DRAWN_CELLS = 4_000_000
# A new decoder that changes values must change this, so that readers can tell grids apart.
TRANSFORM_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Rails:
    """What an ingest runs on. `at` is told each point where a death must be survivable."""

    catalog: Catalog
    store: Store
    open_bucket: Callable[[str], Bucket]
    scratch: Path
    parallel_downloads: int
    decode_threads: int
    clock: Callable[[], datetime]
    at: Callable[[str], None] = lambda _point: None


@dataclass(slots=True)
class Report:
    """What one run did to one partition; what its materialization shows."""

    model: Model
    partition: str
    published: int = 0
    partial: int = 0
    postponed: int = 0
    failed: int = 0
    grids: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)  # configured parameters that objects did not have
    headline: Grid | None = None  # the picture: the headline parameter
    lock: threading.Lock = field(default_factory=threading.Lock)


def ingest_partition(rails: Rails, model: Model, partition: str, *, owner: str) -> Report:
    """Work off everything that is due in the partition. Raises what fails for the whole batch."""
    report = Report(model, partition)
    started = time.monotonic()
    rails.at("before claim")
    while claim := _claim(rails, model, partition, owner):
        rails.at("after claim")
        _ingest_batch(rails, model, claim, report)
    report.seconds = time.monotonic() - started
    return report


def _claim(rails: Rails, model: Model, partition: str, owner: str) -> Claim | None:
    return rails.catalog.claim(model.source_name, partition, owner=owner, lease=LEASE, limit=BATCH_OBJECTS)


def _ingest_batch(rails: Rails, model: Model, claim: Claim, report: Report) -> None:
    """Publish what the claim holds. The ledger commit is the switch; on an error nothing is deleted."""
    try:
        with _heartbeat(rails.catalog, claim):
            outcomes, snapshot = _publish(rails, model, claim, report)
            if snapshot is not None:
                rails.catalog.commit(claim, snapshot, outcomes)
                rails.at("after commit")
            else:
                rails.catalog.fail(claim, outcomes)
    except LostLease as lost:
        report.errors.append(str(lost))
        return
    except (Stale, StoreUnavailable) as error:
        outcomes = _all_postponed(claim, str(error))
        rails.catalog.fail(claim, outcomes)
        if isinstance(error, StoreUnavailable):
            raise
    except BaseException as error:
        # Nobody knows whether the commit landed: fail is a no-op if it did.
        rails.at("inside fail")
        blameless = isinstance(error, NOT_THE_OBJECTS_FAULT) or not isinstance(error, Exception)
        told = f"the batch was given up: {type(error).__name__}: {error}"
        rails.catalog.fail(claim, _all_postponed(claim, told) if blameless else [])
        raise
    _count(report, outcomes)


def _all_postponed(claim: Claim, told: str) -> list[Outcome]:
    return [Postponed(item, told) for item in claim.objects]


def _publish(rails: Rails, model: Model, claim: Claim, report: Report) -> tuple[list[Outcome], str | None]:
    """Outcomes of the claim's objects, and the sealed snapshot if any of them has a good grid."""
    files = {item.id: parse(model, item.bucket, item.key) for item in claim.objects}
    draft = publish.open_draft(rails.store, model, claim, rails.at)
    publish.reserve(draft, (file for file in files.values() if file is not None))
    rails.at("during fetch")
    with (
        scratch_folder(rails.scratch) as scratch,
        ThreadPoolExecutor(OBJECTS_IN_FLIGHT, thread_name_prefix="object") as objects,
        ThreadPoolExecutor(rails.decode_threads, thread_name_prefix="decode") as decoders,
        ThreadPoolExecutor(rails.parallel_downloads, thread_name_prefix="fetch") as downloads,
    ):
        bench = _Bench(rails, model, draft, report, scratch, decoders, downloads)
        outcomes = list(objects.map(lambda item: bench.ingest(item, files[item.id]), claim.objects))
    rails.at("after chunks")
    if not any(isinstance(outcome, Published) for outcome in outcomes):
        return outcomes, None
    snapshot = publish.seal(draft, f"token {claim.token}: {len(outcomes)} objects")
    rails.store.sync()
    rails.at("after the store commit")
    return outcomes, snapshot


@dataclass(frozen=True, slots=True)
class _Harvest:
    """What an object holds for us: one decoder a grid, run in the decode threads."""

    decoders: tuple[Callable[[], Grid], ...]
    bytes_read: int
    rejected: tuple[Rejected, ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Bench:
    """One batch's shared parts."""

    rails: Rails
    model: Model
    draft: publish.Draft
    report: Report
    scratch: Scratch
    decoders: ThreadPoolExecutor
    downloads: ThreadPoolExecutor

    def ingest(self, item: SourceObject, file: SourceFile | None) -> Outcome:
        """Fetch, decode and write one object; its outcome says whose fault a failure is."""
        if file is None:
            return Failed(
                item, f"{item.key}: no longer in the configuration of {self.model.id}", permanent=True
            )
        try:
            harvest = self._fetch(item, file)
            return self._store(item, file, harvest)
        except StoreUnavailable:
            raise
        except Damaged as error:
            return Failed(item, str(error))
        except PermanentError as error:
            return Failed(item, str(error), permanent=True)
        except TransientError as error:
            wish = None if error.retry_after is None else timedelta(seconds=error.retry_after)
            return Postponed(item, str(error), wish)

    def _fetch(self, item: SourceObject, file: SourceFile) -> _Harvest:
        bucket = self.rails.open_bucket(item.bucket)
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
            now=self.rails.clock(),
            scratch=self.scratch,
            executor=self.downloads,
        )
        if fetched.why_scanned is not None:
            log.warning("read without its inventory", extra={"key": item.key, "why": fetched.why_scanned})
        decoders = tuple(partial(grib.decode, m.payload, m.parameter, m.level) for m in fetched.messages)
        absent = tuple(f"{parameter.name} ({level})" for parameter, level in fetched.missing)
        return _Harvest(decoders, fetched.bytes_read, fetched.rejected, absent)

    def _store(self, item: SourceObject, file: SourceFile, harvest: _Harvest) -> Outcome:
        slot = _Slot(self.draft, file)
        futures = [self.decoders.submit(self._decode_and_write, decode, slot) for decode in harvest.decoders]
        artifacts, rejected = _collect(futures, list(harvest.rejected))
        with self.report.lock:
            self.report.absent.update(harvest.absent)
            self.report.bytes_read += harvest.bytes_read
        if not artifacts:
            reasons = (
                "; ".join(f"{r.what}: {r.reason}" for r in rejected) or "it holds no configured parameter"
            )
            raise Damaged(
                f"{item.key}: no usable grid ({reasons}). An older version, if there was one, stays live."
            )
        wanted = len(artifacts) + len(rejected)
        error = "; ".join(f"{r.what}: {r.reason}" for r in rejected)
        told = f"{len(rejected)} of {wanted} messages rejected: {error}" if rejected else None
        return Published(item, tuple(artifacts), told)

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
            self.report.headline = thinned(grid)
        return artifact


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


def _headline(model: Model) -> Parameter:
    """The parameter of the picture: the first that has one level, as a map has."""
    return next((p for p in model.parameters if not p.levels_hpa), model.parameters[0])


def thinned(grid: Grid) -> Grid:
    """Every n-th row and column of a large grid, as a copy that does not hold the rest."""
    step = max(1, round((grid.values.size / DRAWN_CELLS) ** 0.5))
    return replace(grid, values=grid.values[::step, ::step].copy())


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


def _count(report: Report, outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        match outcome:
            case Published(artifacts=artifacts, error=error):
                report.published += 1
                report.partial += error is not None
                report.grids += len(artifacts)
                report.bytes_stored += sum(a.size_bytes for a in artifacts)
            case Postponed(error=error):
                report.postponed += 1
            case Failed(error=error):
                report.failed += 1
        if error is not None:
            report.errors.append(error)


@contextmanager
def _heartbeat(catalog: Catalog, claim: Claim) -> Iterator[None]:
    """Renew the lease until the block ends. A lost lease is found out by the commit, which is fenced."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(LEASE.total_seconds() / 3):
            try:
                catalog.heartbeat(claim, lease=LEASE)
            except LostLease:
                return
            except OperationalError:
                # The next beat tries again; if the lease runs out meanwhile, the commit is refused.
                continue

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

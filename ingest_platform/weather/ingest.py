"""Turns a partition's due objects into published grids: claim, fetch, decode, publish, commit.

One batch is one claim. Its objects are independent: a damaged one is recorded and its neighbours are
published. What fails for everybody (our store, the ledger) fails the batch, and nothing is lost:
the published snapshot stands and the objects are pending again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from ingest_platform.catalog import lease
from ingest_platform.catalog.claim import LEASE as LEASE
from ingest_platform.catalog.counters import Increments
from ingest_platform.catalog.lease import is_blameless, kept_alive
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Claim, Failed, Outcome, Postponed, Published, SourceObject
from ingest_platform.errors import LostLease, Stale, StoreUnavailable
from ingest_platform.storage.bucket import Bucket
from ingest_platform.storage.http import HttpTally
from ingest_platform.storage.scratch import scratch_folder
from ingest_platform.storage.store import Store
from ingest_platform.weather import publish, tally
from ingest_platform.weather.bench import Bench, Done
from ingest_platform.weather.keys import parse
from ingest_platform.weather.model import Grid, Model, Rejected, SourceFile

# A cycle becomes visible in steps: sixteen GFS leads are about a minute of work on two cores.
BATCH_OBJECTS = 16
# While one object decodes, the next is fetched; each holds at most 86 messages (70 MB) in memory.
OBJECTS_IN_FLIGHT = 2


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
    tally: HttpTally = field(default_factory=HttpTally)  # of the buckets; moved into the ledger's counters
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

    def draw(self, grid: Grid) -> None:
        """Keep this grid for the picture; the last one stays."""
        self.headline = grid


def _never() -> bool:
    return False


def ingest_partition(
    rails: Rails,
    model: Model,
    partition: str,
    *,
    owner: str,
    stop: Callable[[], bool] = _never,
    pause: Callable[[], bool] = _never,
) -> Report:
    """Work off what is due in the partition. Raises what fails for the whole batch.

    `stop` is asked before each object: what has begun is published, the rest is handed back. `pause` is asked
    between batches: what is left stays due.
    """
    report = Report(model, partition)
    started = time.monotonic()
    tried: set[int] = set()
    rails.at("before claim")
    try:
        while claim := _claim(rails, model, partition, owner):
            rails.at("after claim")
            before = report.published
            _ingest_batch(rails, model, claim, report, stop)
            again = tried.issuperset(item.id for item in claim.objects)
            tried.update(item.id for item in claim.objects)
            # A source that fails slowly makes the first of 209 leads due again before the last was tried.
            if stop() or pause() or (again and report.published == before):
                break
    finally:
        count_answers(rails)
    report.seconds = time.monotonic() - started
    return report


def count_answers(rails: Rails) -> None:
    """Move what the sources answered into the ledger's counters; one transaction, or none."""
    with rails.tally.taken() as answers:
        if answers:
            rails.catalog.add(_answer_counters(answers))


def _answer_counters(answers: Mapping[tuple[str, str], int]) -> Increments:
    return {
        ("source_http_requests_total", (("bucket", bucket), ("code", code))): number
        for (bucket, code), number in answers.items()
    }


def _claim(rails: Rails, model: Model, partition: str, owner: str) -> Claim | None:
    rails.store.require(rails.catalog.ledger_id)
    return rails.catalog.claim(model.source_name, partition, owner=owner, lease=LEASE, limit=BATCH_OBJECTS)


def _ingest_batch(rails: Rails, model: Model, claim: Claim, report: Report, stop: Callable[[], bool]) -> None:
    """Publish what the claim holds. The ledger commit is the switch; on an error nothing is deleted."""
    started = time.monotonic()
    hand_back = partial(_hand_back, rails, model, claim, stop, started)
    try:
        with kept_alive(rails.catalog, claim, lease=LEASE):
            outcomes, rejected, snapshot = _publish(rails, model, claim, report, stop)
            if snapshot is not None:
                seconds = time.monotonic() - started
                moved = tally.committed(model, outcomes, rejected, seconds=seconds, now=rails.clock())
                with rails.tally.taken() as answers:
                    counters = {**moved, **_answer_counters(answers)}
                    rails.catalog.commit(claim, snapshot, outcomes, counters=counters)
                rails.at("after commit")
            else:
                hand_back(outcomes, rejected)
    except LostLease as lost:
        report.errors.append(str(lost))
        return
    except (Stale, StoreUnavailable) as error:
        outcomes = _all_postponed(claim, str(error))
        hand_back(outcomes, broken=isinstance(error, StoreUnavailable))
        if isinstance(error, StoreUnavailable):
            raise
    except BaseException as error:
        # Nobody knows whether the commit landed: fail is a no-op if it did.
        rails.at("inside fail")
        told = f"the batch was given up: {type(error).__name__}: {error}"
        # What used an attempt is taken alone in the end.
        hand_back(_all_postponed(claim, told) if is_blameless(error) else [], broken=True)
        raise
    _count(report, outcomes)


def _all_postponed(claim: Claim, told: str) -> list[Outcome]:
    return [Postponed(item, told) for item in claim.objects]


def _hand_back(
    rails: Rails,
    model: Model,
    claim: Claim,
    stop: Callable[[], bool],
    started: float,
    outcomes: Sequence[Outcome],
    rejected: Sequence[Rejected] = (),
    *,
    broken: bool = False,
) -> None:
    def moved() -> Increments:
        seconds = time.monotonic() - started
        return tally.handed_back(model, outcomes, rejected, seconds=seconds, broken=broken)

    lease.hand_back(rails.catalog, claim, outcomes, counters=moved, stop=stop)


def _publish(
    rails: Rails, model: Model, claim: Claim, report: Report, stop: Callable[[], bool]
) -> tuple[list[Outcome], list[Rejected], str | None]:
    """Outcomes of the claim's objects, what was rejected, and the sealed snapshot if any has a good grid."""
    files = {item.id: parse(model, item.bucket, item.key) for item in claim.objects}
    draft = publish.open_draft(rails.store, model, claim, rails.at)
    publish.reserve(draft, (file for file in files.values() if file is not None))
    rails.at("during fetch")
    outcomes: list[Outcome] = []
    rejected: list[Rejected] = []
    for done in _ingest_objects(rails, claim, draft, files, report, stop):
        outcomes.append(done.outcome)
        rejected += done.rejected
        report.bytes_read += done.bytes_read
        report.absent.update(done.absent)
    rails.at("after chunks")
    if not any(isinstance(outcome, Published) for outcome in outcomes):
        return outcomes, rejected, None
    snapshot = publish.seal(draft, f"token {claim.token}: {len(outcomes)} objects")
    rails.store.sync()
    rails.store.require(rails.catalog.ledger_id)
    rails.at("after the store commit")
    return outcomes, rejected, snapshot


def _ingest_objects(
    rails: Rails,
    claim: Claim,
    draft: publish.Draft,
    files: Mapping[int, SourceFile | None],
    report: Report,
    stop: Callable[[], bool],
) -> Iterator[Done]:
    """Each object of the claim, some at once, in the claim's order."""
    with (
        scratch_folder(rails.scratch) as scratch,
        ThreadPoolExecutor(OBJECTS_IN_FLIGHT, thread_name_prefix="object") as objects,
        ThreadPoolExecutor(rails.decode_threads, thread_name_prefix="decode") as decoders,
        ThreadPoolExecutor(rails.parallel_downloads, thread_name_prefix="fetch") as downloads,
    ):
        bench = Bench(
            report.model,
            draft,
            rails.open_bucket,
            rails.clock,
            scratch,
            decoders,
            downloads,
            picture=report.draw,
        )

        def ingest(item: SourceObject) -> Done:
            if stop():
                return Done(Postponed(item, "the worker was asked to stop before it began with this object"))
            return bench.ingest(item, files[item.id])

        yield from objects.map(ingest, claim.objects)


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

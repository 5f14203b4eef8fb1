"""The platform for Prometheus, from the ledger alone: counters that survive every process, gauges of now.

Runs are too short to be scraped, so nothing is counted here: counters are the ledger's, moved in the
transaction of what they count. A ledger that cannot be read raises: nothing is ever shown as zero because
it could not be asked. Each metric is in docs/metrics.md, as a test holds.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import get_args, get_type_hints

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Count, SourceGauges
from ingest_platform.operations import genomes, results
from ingest_platform.operations.families import CounterOf, counter, gauges_by, model_named, model_of
from ingest_platform.operations.standing import Standing, lag_limit, silence_limit, standings
from ingest_platform.silo import status as silo
from ingest_platform.silo.model import Organism
from ingest_platform.silo.status import OrganismStanding
from ingest_platform.weather import tally
from ingest_platform.weather.model import Model, Rejected

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def render(
    catalog: Catalog, models: Sequence[Model], organisms: Sequence[Organism] = (), *, now: datetime
) -> bytes:
    """Everything in Prometheus' text format 0.0.4. `now`: UTC, for the lag. Raises SQLAlchemyError."""
    started = time.perf_counter()
    counts = catalog.counts()
    gauges = catalog.gauges()
    states = standings(catalog, models, gauges)
    species = silo.standings(catalog, organisms)
    configured = {"model": [m.id for m in models], "organism": [o.id for o in organisms]}
    families = [
        *(counter(of, counts, configured) for of in (*COUNTERS, *genomes.COUNTERS)),
        _histogram(tally.DURATION, "Time from claim to commit of a batch.", counts, models),
        _histogram(tally.VISIBLE, "Time from an object's upload to its commit.", counts, models),
        *_with_organisms(_gauges(states, now), species),
        *genomes.gauges(species, now),
        *_partitions(gauges),
        *_operations(gauges),
        _took(time.perf_counter() - started),
    ]
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families:
    """What was read, as the collector that the library wants."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _histogram(name: str, text: str, counts: Iterable[Count], models: Iterable[Model]) -> Metric:
    """The ledger holds each bucket alone, Prometheus wants them added up."""
    bounds = {tally.DURATION: tally.DURATION_BOUNDS, tally.VISIBLE: tally.VISIBLE_BOUNDS}[name]
    empty = {f"{bound:g}": 0.0 for bound in bounds} | {"+Inf": 0.0}
    buckets = {model.id: dict(empty) for model in models}
    sums: dict[str, float] = defaultdict(float)
    for count in counts:
        model = model_of(count)
        if count.name == f"{name}_bucket":
            # Bounds of an older version stay: what was counted into them is not taken back.
            buckets.setdefault(model, dict(empty))[count.labels["le"]] = count.value
        elif count.name == f"{name}_sum":
            sums[model] += count.value
    family = HistogramMetricFamily(name, text, labels=["model"])
    for model, alone in sorted(buckets.items()):
        ordered = sorted(alone.items(), key=lambda bucket: float(bucket[0]))
        added_up = accumulate(value for _, value in ordered)
        family.add_metric(
            [model], list(zip((bound for bound, _ in ordered), added_up, strict=True)), sums[model]
        )
    return family


def _gauges(states: Sequence[Standing], now: datetime) -> Iterator[Metric]:
    yield from gauges_by("model", MODEL_GAUGES, {s.model.id: _readings(s, now) for s in states})
    queue = "Objects that are not ingested: due, waiting for their next attempt, quarantined."
    yield _by_state("ingest_queue_depth", queue, {s.model.id: _queue(s.gauges) for s in states if s.gauges})


def _with_organisms(families: Iterable[Metric], states: Sequence[OrganismStanding]) -> Iterable[Metric]:
    by_name = {family.name: family for family in families}
    for name, labels, value in genomes.beside_models(states):
        by_name[name].add_sample(name, dict(labels), value)
    return by_name.values()


def _partitions(gauges: Sequence[SourceGauges]) -> Iterator[Metric]:
    """Of every source in the ledger: the data of a model that was removed fills the store like any other."""
    text = "Partitions by state: open, purging, and purged ones of which the tombstone is left."
    yield _by_state("ingest_partitions", text, {model_named(of.source): of.partitions for of in gauges})
    purges = results.purges(gauges)
    purged = GaugeMetricFamily("ingest_last_purge_timestamp_seconds", PURGED_HELP, labels=["model"])
    left = GaugeMetricFamily("purge_partitions_left", LEFT_HELP, labels=["model", "kind"])
    for source in sorted(of.source for of in gauges if results.holds_data(of) and of.source in purges):
        purged.add_metric([model_named(source)], purges[source].at.timestamp())
        for kind, number in purges[source].numbers.items():
            left.add_metric([model_named(source), kind], number)
    yield from (purged, left)


def _readings(state: Standing, now: datetime) -> Mapping[str, datetime | timedelta | None]:
    oldest_due = state.gauges.oldest_due if state.gauges else None
    return {
        "ingest_lag_seconds": _age(state.newest_live, now),
        "ingest_lag_limit_seconds": lag_limit(state.model),
        "ingest_source_age_seconds": _age(state.newest_seen, now),
        "ingest_source_age_limit_seconds": silence_limit(state.model),
        "ingest_oldest_due_seconds": _age(oldest_due, now),
        "ingest_last_success_timestamp_seconds": state.last_success,
        "ingest_last_listing_timestamp_seconds": state.listed_at,
        "ingest_next_poll_timestamp_seconds": state.next_poll,
        "ingest_poll_interval_seconds": timedelta(seconds=state.model.poll_interval_seconds),
    }


def _age(moment: datetime | None, now: datetime) -> timedelta | None:
    return None if moment is None else now - moment


def _queue(gauges: SourceGauges) -> Mapping[str, int]:
    waiting = gauges.pending - gauges.due
    return {"due": gauges.due, "waiting": waiting, "quarantined": gauges.quarantined}


def _by_state(name: str, text: str, numbers: Mapping[str, Mapping[str, int]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["model", "state"])
    for model, states in numbers.items():
        for state, number in sorted(states.items()):
            family.add_metric([model, state], number)
    return family


def _operations(gauges: Sequence[SourceGauges]) -> Iterator[Metric]:
    """When purge and reconcile ended last, and what reconcile left. No sample before the first time."""
    ended = GaugeMetricFamily(
        "operation_last_run_timestamp_seconds", "When it ended last, Unix time.", labels=["operation"]
    )
    orphans = GaugeMetricFamily(
        "orphans", "What the last reconcile found and could not mend.", labels=["kind"]
    )
    found = {operation: results.last(gauges, operation) for operation in (results.PURGE, results.RECONCILE)}
    for operation, last in found.items():
        if last is not None:
            ended.add_metric([operation], last.at.timestamp())
    reconciled = found[results.RECONCILE]
    for kind, number in reconciled.numbers.items() if reconciled else ():
        orphans.add_metric([kind], number)
    yield from (ended, orphans)


def _took(seconds: float) -> Metric:
    text = "What it took to read the ledger for these lines."
    return GaugeMetricFamily("ingest_scrape_duration_seconds", text, value=seconds)


PURGED_HELP = "When a purge of it ended last, Unix time, while the model has data."
LEFT_HELP = "Partitions that the last purge of the model could not delete and that are still there."

MODEL_GAUGES = {
    "ingest_lag_seconds": "Age of the newest cycle, scan or observation that readers can open.",
    "ingest_lag_limit_seconds": "Its highest value while all is well: cadence, delay and poll interval.",
    "ingest_source_age_seconds": "Age of the newest cycle, scan or observation that the source has shown.",
    "ingest_source_age_limit_seconds": "Beyond it the source is stale: three cadences and its usual delay.",
    "ingest_oldest_due_seconds": "Time since the upload of the object that waits longest for a worker.",
    "ingest_last_success_timestamp_seconds": "Last commit, Unix time.",
    "ingest_last_listing_timestamp_seconds": "Last listing of the source that ended well, Unix time.",
    "ingest_next_poll_timestamp_seconds": "When the source is listed next, Unix time.",
    "ingest_poll_interval_seconds": "Time between two listings by the sensor.",
}

COUNTERS = (
    CounterOf(
        tally.RUNS,
        "Batches by how they ended: success, partial, postponed, failure.",
        ((tally.RUNS, ""),),
        ("model", "status"),
        tally.STATUSES,
    ),
    CounterOf("files_ingested_total", "Source files that were published.", (("files_ingested_total", ""),)),
    CounterOf(
        "ingest_attempts_total",
        "Attempts at a source file by their outcome: ingested, postponed, failed.",
        (
            ("files_ingested_total", "ingested"),
            ("objects_postponed_total", "postponed"),
            ("objects_failed_total", "failed"),
        ),
        ("model", "outcome"),
        ("ingested", "postponed", "failed"),
    ),
    CounterOf(
        "files_quarantined_total",
        "Source files that were given up until a person or a new version helps.",
        (("objects_quarantined_total", ""),),
    ),
    CounterOf("grids_published_total", "Grids that were published.", (("artifacts_published_total", ""),)),
    CounterOf(
        "published_bytes_total", "Encoded size of the published grids.", (("bytes_published_total", ""),)
    ),
    CounterOf(
        tally.REJECTS,
        "Messages that could not be used, by reason; their neighbours were not affected.",
        ((tally.REJECTS, ""),),
        ("model", "reason"),
        get_args(get_type_hints(Rejected)["kind"]),
    ),
    CounterOf(
        "source_http_requests_total",
        "Requests to the source buckets by HTTP status, or error where no answer came.",
        (("source_http_requests_total", ""),),
        ("bucket", "code"),
    ),
    CounterOf(
        "purge_files_deleted_total", "Grids that retention deleted.", (("artifacts_purged_total", ""),), ()
    ),
    CounterOf("purge_bytes_freed_total", "Their encoded size.", (("bytes_purged_total", ""),), ()),
    CounterOf(
        "purge_partitions_deleted_total",
        "Partitions that retention deleted.",
        (("partitions_purged_total", ""),),
    ),
    CounterOf(
        "orphans_removed_total",
        "Places in the store without a name in the ledger that reconcile deleted.",
        (("orphans_removed_total", ""),),
    ),
    CounterOf(
        "orphan_bytes_removed_total", "Their size in the store.", (("orphan_bytes_removed_total", ""),)
    ),
    CounterOf(
        "partitions_repaired_total",
        "Partitions whose bytes were lost and that are fetched again.",
        (("partitions_repaired_total", ""),),
    ),
)

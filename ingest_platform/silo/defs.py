"""SILO in Dagster: a partition an organism, four assets of one import, its checks, its sensor, its jobs.

This page decides nothing: it hands Dagster's context to the domain's functions, and their answers back.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.errors import IngestError, PermanentError
from ingest_platform.pages.defs import check_result, drawn, families_of_failure
from ingest_platform.settings import Settings
from ingest_platform.silo.config import load_organisms
from ingest_platform.silo.model import Organism
from ingest_platform.silo.read import SOURCE, Live
from ingest_platform.storage.store import Store

GROUP, OWNERS = "silo", ["team:genomes"]
# A tick without a due poll costs one SELECT; the poll interval of each organism decides about requests.
TICK_SECONDS = 30
# A run starts and claims within 6 s; a request that came to nothing is made again at the tick after the next.
HOLD_OFF = timedelta(seconds=45)
# The ledger does not know Dagster's queue: while a run of the organism waits in it, no other is asked for.
WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
# For all that has no time-out among an organism's settings: start, checks, lineage files, store.
AIR_SECONDS = 3600
# For runs launched by hand: an hour each of download and building, as the settings allow by default.
LONGEST_SECONDS = 2 * 3600 + AIR_SECONDS
# Of the ledger's id in run keys: enough to tell a fresh ledger from the one that it replaces.
LEDGER_ID_CHARACTERS = 8
# As many imports as the growth plot draws.
HISTORY = 40
DATA_VERSION = "dagster/data_version"

ORGANISMS = dg.DynamicPartitionsDefinition(name="organism")
BACKEND = dg.AssetKey(["silo", "loculus_backend"])
SNAPSHOT, LINEAGES, RECORDS, INDEX = (
    dg.AssetKey(["silo", name])
    for name in ("released_snapshot", "lineage_definitions", "silo_ndjson", "silo_index")
)
CHECKS = {
    "index_served": "The output folder offers the finished index that the ledger names.",
    "rows_match": "The served index has as many rows as its snapshot has records.",
    "row_drop": "No import lost more than the organism's `row_drop_limit` of its rows.",
    "release_taken": "What the backend released last was imported; nothing waits after an error.",
    "fresh": "Every live index was confirmed within twice its hard refresh.",
    "backend_answers": "No backend's polls have failed for half an hour.",
    "conditional_requests": "Backends answer 304 to the ETag that they gave.",
    "records_announced": "Every live snapshot was counted against x-total-records.",
    "lineages_known": "Every lineage value is in its definition file.",
}


class Import(dg.Config):
    """`refresh` looks at everything again, changed or not, also where the last release was given up.

    `accept_row_drop`: this once, publish however few rows; looks at everything again, too.
    """

    refresh: bool = False
    accept_row_drop: bool = False


def definitions() -> dg.Definitions:
    """Everything of all organisms: ticks and runs read which ones there are, so a new one needs no reload."""
    return dg.Definitions(
        assets=[_backend(), silo_import],
        asset_checks=[silo_checks],
        jobs=[import_silo, check_silo],
        sensors=[silo_sensor],
        schedules=[
            dg.ScheduleDefinition(
                name="check_silo_hourly",
                job=check_silo,
                cron_schedule="50 * * * *",
                default_status=dg.DefaultScheduleStatus.RUNNING,
            )
        ],
    )


def _backend() -> dg.AssetSpec:
    return dg.AssetSpec(
        BACKEND,
        partitions_def=ORGANISMS,
        group_name=GROUP,
        kinds={"loculus"},
        owners=OWNERS,
        description="Released sequences of each organism's Loculus backend; its ETag is the data version.",
    )


def _spec(key: dg.AssetKey, deps: Sequence[dg.AssetKey], kinds: set[str], told: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        key,
        deps=deps,
        partitions_def=ORGANISMS,
        skippable=True,
        group_name=GROUP,
        kinds=kinds,
        owners=OWNERS,
        description=told,
    )


# One step, because it is one transaction of the ledger: the snapshot, its lineages and its index become
# visible together, or not at all.
@dg.multi_asset(
    name="silo_import",
    specs=[
        _spec(SNAPSHOT, [BACKEND], {"zstd"}, "The release as the backend sent it, whole and sound."),
        _spec(LINEAGES, [SNAPSHOT], {"yaml"}, "The lineage files of the release's pipeline version."),
        _spec(RECORDS, [SNAPSHOT], {"json"}, "The release in SILO's shape: input of the engine."),
        _spec(INDEX, [RECORDS, LINEAGES], {"silo"}, "The index that SILO's API serves; it moves only whole."),
    ],
    # A build takes the memory of the whole index, so one at a time unless the pool is given more slots.
    pool="silo_engine",
)
def silo_import(
    context: dg.AssetExecutionContext,
    config: Import,
    catalog: dg.ResourceParam[Catalog],
    store: dg.ResourceParam[Store],
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.MaterializeResult[Any]]:
    from ingest_platform.silo import discover, feed, ingest

    with families_of_failure():
        [organism] = _organisms(settings, only=[context.partition_key])
        rails = feed.rails_over(catalog, store, settings)
        if config.refresh or config.accept_row_drop:
            discover.refresh(rails, organism)
        elif not (catalog.has_due(SOURCE, organism.id) or ingest.needs_serving(rails, organism)):
            discover.poll(rails, organism)
        report = ingest.import_organism(
            rails, organism, owner=f"run {context.run.run_id}", accept_row_drop=config.accept_row_drop
        )
    for warning in report.warnings:
        context.log.warning(warning)
    if report.index is not None:
        yield from _news(context.instance, organism, report.index)
    if report.error is not None:
        log = {"engine_log": report.log_tail} if report.log_tail else {}
        raise dg.Failure(str(report.error), metadata=_shown(log), allow_retries=False) from report.error


import_silo = dg.define_asset_job(
    "import_silo",
    # The checks have an hourly job of their own: they look at all organisms.
    dg.AssetSelection.assets(silo_import).without_checks(),
    description="Import what is due of one organism.",
    tags={"dagster/max_runtime": str(LONGEST_SECONDS)},
)


def _news(
    instance: dg.DagsterInstance, organism: Organism, published: Live
) -> Iterator[dg.MaterializeResult[Any]]:
    """What Dagster was not told of yet: nothing, where the import found nothing new."""
    from ingest_platform.silo.summary import told

    history = _history(instance, organism.id)
    for name, news in told(published, output=organism.output, history=history).items():
        key = dg.AssetKey(["silo", name])
        if _last_version(instance, key, organism.id) != news.data_version:
            yield dg.MaterializeResult(
                asset_key=key,
                metadata=_shown(news.facts),
                data_version=dg.DataVersion(news.data_version),
            )


@dg.multi_asset_check(
    name="silo_checks",
    specs=[dg.AssetCheckSpec(name, asset=INDEX, description=told) for name, told in CHECKS.items()],
    pool="silo_checks",
    # Else the UI's buttons that execute a check are dead.
    can_subset=True,
)
def silo_checks(
    context: dg.AssetCheckExecutionContext,
    catalog: dg.ResourceParam[Catalog],
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.AssetCheckResult]:
    from ingest_platform.silo.checks import verdicts
    from ingest_platform.silo.engines.rhydb_rows import rows_in
    from ingest_platform.silo.status import states

    organisms = _organisms(settings)
    found = states(
        catalog,
        organisms,
        histories={o.id: _history(context.instance, o.id) for o in organisms},
        rows_in=lambda organism, index: (
            rows_in(index, os.environ) if organism.engine.kind == "rhydb" else None
        ),
    )
    selected = {key.name for key in context.selected_asset_check_keys}
    for name, verdict in verdicts(found, datetime.now(UTC)).items():
        if name in selected:
            yield check_result(name, INDEX, verdict, _shown(verdict.facts))


check_silo = dg.define_asset_job(
    "check_silo",
    dg.AssetSelection.checks(silo_checks),
    description="Are the organisms' indexes served, whole and fresh?",
)


@dg.sensor(
    job=import_silo,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks each organism's backend for news, by its ETag, and for runs of what is due.",
)
def silo_sensor(
    context: dg.SensorEvaluationContext,
    catalog: dg.ResourceParam[Catalog],
    store: dg.ResourceParam[Store],
    settings: dg.ResourceParam[Settings],
) -> dg.SensorResult | dg.SkipReason:
    from ingest_platform.silo import discover, feed, ingest
    from ingest_platform.silo.polling import poll_all

    if settings.silo_organisms is None:
        return dg.SkipReason("INGEST_SILO_ORGANISMS names no file: there are no organisms to import")
    organisms = _organisms(settings)
    rails = feed.rails_over(catalog, store, settings)
    answers = poll_all(
        organisms,
        lambda organism: discover.poll(
            rails, organism, every=timedelta(seconds=organism.poll_interval_seconds)
        ),
    )
    # All that may fail comes before the requests: what the ledger was asked for and nobody runs waits.
    unserved, unseen = _unserved(organisms, partial(ingest.needs_serving, rails))
    failed = [*answers.failed.values(), *unseen]
    for error in failed:
        context.log.error(error)
    changes = _reconciled(context.instance, organisms)
    running = _partitions_in(context.instance, [dg.DagsterRunStatus.STARTED])
    waiting = _partitions_in(context.instance, WAITING)
    asked = _requests(catalog, [o for o in organisms if o.id not in waiting])
    taken = waiting | running | {run.partition_key for run in asked}
    # No version is due that a key could name.
    asked += [_run(organism) for organism in unserved if organism.id not in taken]
    known: dict[str, str] = json.loads(context.cursor or "{}")
    new = {name: p.etag for name, p in answers.polled.items() if p.etag and known.get(name) != p.etag}
    if failed and not (asked or changes or new):
        # A tick that fails shows its reason and moves nothing; what else is due is on its way by now.
        raise dg.Failure("\n".join(failed), allow_retries=False)
    return dg.SensorResult(
        run_requests=asked,
        dynamic_partitions_requests=changes,
        asset_events=[
            dg.AssetObservation(BACKEND, partition=name, tags={DATA_VERSION: etag})
            for name, etag in new.items()
        ],
        cursor=json.dumps(known | new),
        skip_reason=None if asked else "nothing is due",
    )


def _reconciled(
    instance: dg.DagsterInstance, organisms: Sequence[Organism]
) -> list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]:
    """What makes Dagster's partitions those of the configuration. What an organism left stays."""
    known = set(instance.get_dynamic_partitions("organism"))
    wanted = {organism.id for organism in organisms}
    changes: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if wanted - known:
        changes.append(ORGANISMS.build_add_request(sorted(wanted - known)))
    if known - wanted:
        changes.append(ORGANISMS.build_delete_request(sorted(known - wanted)))
    return changes


def _unserved(
    organisms: Sequence[Organism], needs_serving: Callable[[Organism], bool]
) -> tuple[list[Organism], list[str]]:
    """Organisms whose index a death has left in the store alone; and why one's could not be looked at."""
    unserved, unseen = [], []
    for organism in organisms:
        try:
            if needs_serving(organism):
                unserved.append(organism)
        # Whatever is wrong with one organism's folders, the others' runs are asked for.
        except (IngestError, OSError) as error:
            unseen.append(f"{organism.id}: {error}")
    return unserved, unseen


def _requests(catalog: Catalog, free: Sequence[Organism]) -> list[dg.RunRequest]:
    """Runs for those of the organisms that have due work."""
    by_id = {organism.id: organism for organism in free}
    ledger = catalog.ledger_id[:LEDGER_ID_CHARACTERS]
    return [
        # Dagster never runs a key again: a fresh ledger counts from one again under another name.
        _run(by_id[due.partition], run_key=f"{ledger}:{due.run_key}")
        for due in catalog.request(SOURCE, hold_off=HOLD_OFF)
        if due.partition in by_id
    ]


def _run(organism: Organism, run_key: str | None = None) -> dg.RunRequest:
    """It may last as long as the organism's own time-outs allow; what lasts longer hangs, and is ended."""
    longest = int(organism.timeouts.total_seconds + organism.engine.timeout_seconds) + AIR_SECONDS
    tags = {"dagster/max_runtime": str(longest)}
    return dg.RunRequest(run_key=run_key, partition_key=organism.id, tags=tags)


def _partitions_in(instance: dg.DagsterInstance, statuses: Sequence[dg.DagsterRunStatus]) -> set[str | None]:
    runs = instance.get_runs(dg.RunsFilter(job_name="import_silo", statuses=list(statuses)))
    return {run.tags.get("dagster/partition") for run in runs}


def _organisms(settings: Settings, *, only: Sequence[str] | None = None) -> tuple[Organism, ...]:
    if settings.silo_organisms is None:
        if only:
            raise PermanentError(
                f"INGEST_SILO_ORGANISMS names no file, so nobody knows {only[0]}. Set it and launch again."
            )
        return ()
    return load_organisms(settings.silo_organisms, only=only)


def _history(instance: dg.DagsterInstance, organism: str) -> tuple[int, ...]:
    """Rows of the organism's imports, the oldest first."""
    events = instance.fetch_materializations(
        dg.AssetRecordsFilter(INDEX, asset_partitions=[organism]), limit=HISTORY
    )
    rows = (record.asset_materialization for record in reversed(events.records))
    return tuple(
        count
        for event in rows
        if event and isinstance(count := event.metadata["dagster/row_count"].value, int)
    )


def _last_version(instance: dg.DagsterInstance, key: dg.AssetKey, organism: str) -> str | None:
    events = instance.fetch_materializations(
        dg.AssetRecordsFilter(key, asset_partitions=[organism]), limit=1
    ).records
    last = events[0].asset_materialization if events else None
    return (last.tags or {}).get(DATA_VERSION) if last else None


def _shown(facts: Mapping[str, Any]) -> dict[str, dg.MetadataValue[Any]]:
    """Plain values of the summary as what Dagster draws."""
    return {name: _drawn(name, value) for name, value in facts.items()}


def _drawn(name: str, value: Any) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.md(value) if name in ("growth", "engine_log") else drawn(value)

"""Weather in Dagster: per model one partitioned asset, its checks, its sensor, its jobs and schedule.

This page decides nothing: it hands Dagster's context to the domain's functions, and their answers back.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.pages.defs import check_result, families_of_failure, plain, table
from ingest_platform.settings import Settings
from ingest_platform.storage.store import Store
from ingest_platform.weather.config import load_models
from ingest_platform.weather.model import PARTITION_FORMAT, Model

# Fast feeds first when runs queue: radar, satellite, hourly and six-hourly forecasts.
PRIORITY = {"mrms": 4, "goes": 3, "hrrr": 2, "gfs": 1}
# A tick without a due listing costs one SELECT; the poll interval of the model decides about listings.
TICK_SECONDS = 30
# A run starts and claims within 6 s; a request that came to nothing is made again at the tick after the next.
HOLD_OFF = timedelta(seconds=45)
# The ledger does not know Dagster's queue: while a run of the model waits in it, nothing more is asked for.
WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
# From the first of this month a year ago: at most 397 days, whose 9,528 hours stay below the 10,000
# partitions that Dagster's pages bear well.
HISTORY_YEARS = 1
# Of the ledger's id in run keys: enough to tell a fresh ledger from the one that it replaces.
LEDGER_ID_CHARACTERS = 8
CHECKS = {
    "completeness": "Every cycle or hour has all its leads or times once its deadline is over.",
    "parameters_seen": "Every configured parameter has a live grid.",
    "value_range": "Sampled grids hold values that are physically possible, and not only missing ones.",
    "source_stale": "The source has published something within three of its cadences.",
    "catalog_store": "Sampled grids are bit for bit what was committed.",
}


class Backfill(dg.Config):
    """`admit` brings a purged or never seen old partition back, pinned against retention."""

    admit: bool = False


def definitions(environ: Mapping[str, str] | None = None) -> dg.Definitions:
    """Everything of every enabled model."""
    settings = Settings.from_environment(os.environ if environ is None else environ)
    models = load_models(settings.weather_models, only=settings.enabled_models)
    return dg.Definitions.merge(*(_family(model) for model in models))


def _family(model: Model) -> dg.Definitions:
    """The same parts for every model; its YAML makes the difference."""
    grids = _grids(model)
    checks = _checks(model, grids)
    ingest = dg.define_asset_job(
        f"ingest_{model.id}",
        # The checks have an hourly job of their own: here they would read back the grids after each batch.
        dg.AssetSelection.assets(grids).without_checks(),
        description=f"Ingest what is due of one {model.id} partition.",
        tags={"dagster/priority": str(PRIORITY.get(model.family, 0))},
    )
    check = dg.define_asset_job(
        f"check_{model.id}",
        dg.AssetSelection.checks(checks),
        description=f"Is {model.id} whole, plausible and fresh?",
    )
    return dg.Definitions(
        assets=[_objects(model), grids],
        asset_checks=[checks],
        jobs=[ingest, check],
        sensors=[_sensor(model)],
        schedules=[
            dg.ScheduleDefinition(
                name=f"check_{model.id}_hourly",
                job=check,
                cron_schedule="40 * * * *",
                default_status=dg.DefaultScheduleStatus.RUNNING,
            )
        ],
    )


def _partitions(model: Model) -> dg.TimeWindowPartitionsDefinition:
    today = datetime.now(UTC).date()
    first = date(today.year - HISTORY_YEARS, today.month, 1)
    return dg.TimeWindowPartitionsDefinition(
        start=first.strftime(PARTITION_FORMAT),
        fmt=PARTITION_FORMAT,
        cron_schedule=f"0 */{model.partition_hours} * * *" if model.partition_hours > 1 else "0 * * * *",
        # The 06Z cycle is being published before 12Z: its partition must exist while its window runs.
        end_offset=1,
    )


def _objects_key(model: Model) -> list[str]:
    """The lineage page shows the last part alone: the bucket tells GOES East from West."""
    return ["weather", model.id, model.sources[-1].bucket]


def _objects(model: Model) -> dg.AssetSpec:
    source = model.sources[-1]
    return dg.AssetSpec(
        _objects_key(model),
        group_name=model.family,
        description=f"Objects of {model.title} in bucket {source.bucket}: `{source.key}`",
        kinds={"s3"},
        owners=["team:weather"],
    )


def _grids(model: Model) -> dg.AssetsDefinition:
    @dg.asset(
        key=["weather", model.id, "grids"],
        deps=[_objects_key(model)],
        partitions_def=_partitions(model),
        group_name=model.family,
        kinds={"icechunk", "zarr"},
        owners=["team:weather"],
        pool=f"weather_{model.id}",
        output_required=False,
        description=f'{model.title}. Open with `open_weather("{model.id}", "<partition>")`.',
    )
    def grids(
        context: dg.AssetExecutionContext,
        config: Backfill,
        catalog: dg.ResourceParam[Catalog],
        store: dg.ResourceParam[Store],
        settings: dg.ResourceParam[Settings],
    ) -> Iterator[dg.MaterializeResult[Any]]:
        from ingest_platform.weather import feed, ingest
        from ingest_platform.weather.summary import metadata

        partition = context.partition_key
        rails = feed.rails_over(catalog, store, settings)
        with families_of_failure():
            if config.admit:
                feed.admit(rails, model, partition)
            if not catalog.has_due(model.source_name, partition):
                feed.see_partition(rails, model, partition)
            report = ingest.ingest_partition(rails, model, partition, owner=f"run {context.run_id}")
        for error in report.errors:
            context.log.warning(error)
        live = catalog.published(model.source_name, partition)
        if report.published and live is not None:
            yield dg.MaterializeResult(
                metadata=_shown(metadata(report, live.artifacts, rails.clock())),
                data_version=dg.DataVersion(live.snapshot),
            )

    return grids


def _checks(model: Model, grids: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=f"{model.id}_checks",
        specs=[dg.AssetCheckSpec(name, asset=grids.key, description=told) for name, told in CHECKS.items()],
        pool=f"check_{model.id}",
        # Else the UI's buttons that execute a check are dead.
        can_subset=True,
    )
    def checks(
        context: dg.AssetCheckExecutionContext,
        catalog: dg.ResourceParam[Catalog],
        store: dg.ResourceParam[Store],
    ) -> Iterator[dg.AssetCheckResult]:
        from ingest_platform.weather.summary import verdicts

        selected = {key.name for key in context.selected_asset_check_keys}
        for name, verdict in verdicts(catalog, store, model, datetime.now(UTC)).items():
            if name in selected:
                shown = {fact: plain(value) for fact, value in verdict.facts.items()}
                yield check_result(name, grids.key, verdict, shown)

    return checks


def _sensor(model: Model) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{model.id}_sensor",
        job_name=f"ingest_{model.id}",
        minimum_interval_seconds=min(TICK_SECONDS, model.poll_interval_seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Lists {model.id} every {model.poll_interval_seconds} s, asks for runs of what is due.",
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        catalog: dg.ResourceParam[Catalog],
        store: dg.ResourceParam[Store],
        settings: dg.ResourceParam[Settings],
    ) -> dg.SensorResult | dg.SkipReason:
        from ingest_platform.weather import feed

        rails = feed.rails_over(catalog, store, settings)
        every = timedelta(seconds=settings.poll_interval or model.poll_interval_seconds)
        feed.poll(rails, model, every=every)
        waiting = context.instance.get_runs_count(
            dg.RunsFilter(job_name=f"ingest_{model.id}", statuses=WAITING)
        )
        if waiting:
            return dg.SkipReason(f"{waiting} runs asked for earlier have not started yet")
        due = catalog.request(model.source_name, hold_off=HOLD_OFF)
        known = _partitions(model).has_partition_key
        # A request that names a partition unknown to Dagster would fail the tick, and all others with it.
        strange = ", ".join(r.partition for r in due if not known(r.partition))
        told = f"due, but older or newer than Dagster's partitions: {strange}. `ingest once` takes them"
        if strange:
            context.log.warning(told)
        ledger = catalog.ledger_id[:LEDGER_ID_CHARACTERS]
        asked = [
            # Dagster never runs a key again: a fresh ledger counts from one again under another name.
            dg.RunRequest(run_key=f"{ledger}:{r.run_key}", partition_key=r.partition)
            for r in due
            if known(r.partition)
        ]
        if not asked:
            return dg.SkipReason(told if strange else "nothing is due")
        return dg.SensorResult(run_requests=asked)

    return sensor


def report_to_dagster(model: Model, partition: str, facts: Mapping[str, Any]) -> None:
    """Tell the Dagster instance of DAGSTER_HOME about a materialization that no run of it made."""
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                ["weather", model.id, "grids"], partition=partition, metadata=_shown(facts)
            )
        )


def _shown(facts: Mapping[str, Any]) -> dict[str, dg.MetadataValue[Any]]:
    """Plain values of the summary as what Dagster draws."""
    kinds: dict[str, Callable[[Any], dg.MetadataValue[Any]]] = {
        "picture": dg.MetadataValue.md,
        "picture_full": dg.MetadataValue.md,
        "live_grids": partial(table, columns=["time"]),
    }
    return {key: kinds.get(key, plain)(value) for key, value in facts.items()}

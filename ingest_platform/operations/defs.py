"""Operations in Dagster: what is too old goes, store and ledger agree, Dagster's own history stays small.

This page decides nothing: it hands Dagster's context to the operations' functions, and their answers back.
"""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.operations.watch.defs import sensors
from ingest_platform.pages.defs import drawn
from ingest_platform.settings import Settings
from ingest_platform.storage.store import Store
from ingest_platform.weather.config import load_models

OWNERS = ["team:operations"]
# The seed's default. Ten minutes after the hour, when the runs of the new hour have their data.
PURGE_CRON = "10 */6 * * *"
# After retention: what it left is then found, and an orphan waits at most this long.
RECONCILE_CRON = "40 */6 * * *"
# Every chunk costs a request: a thousand partitions of twenty chunks took 8 s on a folder.
DEEP_CRON = "10 2 * * *"
# By night, when nobody looks at what is being removed.
FORGET_CRON = "25 3 * * *"
# They hold no lease by which a dead run would be known; the next one comes six hours later.
LONGEST_SECONDS = 6 * 3600


# A first purge of thousands of partitions must not become megabytes in one event.
ROWS_SHOWN = 200


class Purge(dg.Config):
    """`dry_run` lists what would go and touches nothing, Dagster's event log included.

    `models`: ids, families or aliases; empty means all, the disabled too.
    """

    dry_run: bool = False
    models: list[str] = Field(default_factory=list)


class Comparison(dg.Config):
    """Without `apply` store and ledger are only compared; `deep` asks for every chunk.

    `max_share`: where a larger share of the store has no name, nothing is deleted; 1 deletes all the same.
    """

    apply: bool = True
    deep: bool = False
    max_share: float = 0.1


def definitions(environ: Mapping[str, str] | None = None) -> dg.Definitions:
    """Everything that keeps the platform healthy."""
    return dg.Definitions(
        assets=[retention, consistency, history],
        schedules=[
            _scheduled("purge", retention, PURGE_CRON),
            _scheduled("reconcile", consistency, RECONCILE_CRON),
            _scheduled("reconcile_deep", consistency, DEEP_CRON, deep=True),
            _scheduled("forget_runs", history, FORGET_CRON),
        ],
        sensors=sensors(os.environ if environ is None else environ),
    )


def _scheduled(name: str, asset: dg.AssetsDefinition, cron: str, **config: object) -> dg.ScheduleDefinition:
    """The asset's job and its schedule, on from the start."""
    job = dg.define_asset_job(
        name,
        dg.AssetSelection.assets(asset),
        description=asset.op.description,
        config={"ops": {asset.op.name: {"config": config}}} if config else None,
        tags={"dagster/max_runtime": LONGEST_SECONDS},
    )
    return dg.ScheduleDefinition(
        name=f"{name}_regularly",
        job=job,
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


@dg.asset(
    key=["operations", "retention"],
    group_name="operations",
    kinds={"icechunk", "sql"},
    owners=OWNERS,
    pool="operations",
    output_required=False,
    description="What the models' retention kept no longer, deleted from the store and then from the ledger.",
)
def retention(
    context: dg.AssetExecutionContext,
    config: Purge,
    catalog: dg.ResourceParam[Catalog],
    store: dg.ResourceParam[Store],
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.MaterializeResult[Any]]:
    from ingest_platform.operations import retention as operation

    models = load_models(settings.weather_models, only=config.models or None, disabled_too=True)
    policies, now = operation.policies(models), datetime.now(UTC)
    if config.dry_run:
        planned = operation.rows(operation.plan(catalog, policies, now=now))
        context.log.info(f"would purge {len(planned)} partitions: {json.dumps(planned)}")
        return
    done = operation.purge(catalog, store, policies, now=now, owner=f"run {context.run.run_id}")
    yield dg.MaterializeResult(metadata=shown(done.facts(most=ROWS_SHOWN)))
    if done.error is not None:
        raise dg.Failure(str(done.error), allow_retries=False) from done.error


@dg.asset(
    key=["operations", "consistency"],
    group_name="operations",
    kinds={"icechunk", "sql"},
    owners=OWNERS,
    pool="operations",
    check_specs=[
        dg.AssetCheckSpec(
            "store_and_ledger_agree",
            asset=["operations", "consistency"],
            description="No bytes without a name, no name without its bytes; what was found is mended.",
        )
    ],
    description="Store and ledger compared both ways; orphans removed, lost partitions fetched again.",
)
def consistency(
    context: dg.AssetExecutionContext,
    config: Comparison,
    catalog: dg.ResourceParam[Catalog],
    store: dg.ResourceParam[Store],
) -> Iterator[dg.MaterializeResult[Any]]:
    from ingest_platform.operations import reconcile as operation

    found = operation.reconcile(
        catalog,
        store,
        now=datetime.now(UTC),
        apply=config.apply,
        deep=config.deep,
        max_share=config.max_share,
        owner=f"run {context.run.run_id}",
    )
    verdict = dg.AssetCheckResult(
        passed=found.well, severity=dg.AssetCheckSeverity.ERROR, description=found.message
    )
    yield dg.MaterializeResult(metadata=shown(found.facts()), check_results=[verdict])


@dg.asset(
    key=["operations", "history"],
    group_name="operations",
    kinds={"dagster"},
    owners=OWNERS,
    pool="operations",
    description="Dagster's own runs and events, kept for a week: else a year of radar fills its database.",
)
def history(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    from ingest_platform.operations import history as operation

    forgotten = operation.retain(
        context.instance, of_job=lambda job: dg.RunsFilter(job_name=job), now=datetime.now(UTC)
    )
    return dg.MaterializeResult(metadata=shown(forgotten.facts()))


def shown(facts: Mapping[str, Any]) -> dict[str, dg.MetadataValue[Any]]:
    """Plain values as what Dagster draws: lists of rows as tables, numbers as plots."""
    return {name: drawn(value) for name, value in facts.items() if value is not None}

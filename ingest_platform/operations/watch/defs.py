"""The watchers in Dagster: failures are told to a webhook, runs that nobody works on any more are ended.

Both look at the instance in a tick and start no run. The decisions are those of `alerts.py` and `ghosts.py`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import dagster as dg
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, InstigatorType, TickStatus
from dagster_shared.error import SerializableErrorInfo

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.operations.watch import alerts
from ingest_platform.operations.watch.ghosts import Ghost, Running, Suspects, confirm, ghosts
from ingest_platform.settings import Settings
from ingest_platform.silo.defs import import_silo, silo_import
from ingest_platform.silo.read import SOURCE
from ingest_platform.weather.config import load_models

ALERTS = "alerts"
# A tick is a row in Dagster's storage, and nobody answers an alert within a minute.
ALERT_SECONDS = 60
# A dead run holds its model's pool; one look costs two queries.
GHOST_SECONDS = 60
FINISHED_RUNS = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
FINISHED_TICKS = [TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE]
WATCHED: Mapping[InstigatorType, alerts.Kind] = {
    InstigatorType.SENSOR: "sensor",
    InstigatorType.SCHEDULE: "schedule",
}
# Each says no more than that user code failed; the cause below it is what the user code said.
WRAPPERS = {
    "DagsterUserCodeProcessError",
    "SensorExecutionError",
    "ScheduleExecutionError",
    "DagsterExecutionStepExecutionError",
}


def sensors(environ: Mapping[str, str]) -> list[dg.SensorDefinition]:
    """Both watchers."""
    return [*alert_sensors(environ), ghost_sensor(environ)]


def alert_sensors(
    environ: Mapping[str, str], every_seconds: int = ALERT_SECONDS
) -> list[dg.SensorDefinition]:
    """The sensor that tells failures; none without INGEST_ALERT_WEBHOOK."""
    settings = Settings.from_environment(environ)
    if settings.alert_webhook is None:
        return []
    post = partial(alerts.send, settings.alert_webhook)
    models = [model.id for model in load_models(settings.weather_models)]

    # Its state lies in its cursor and not in the ledger: a ledger that is away is worth an alert.
    @dg.sensor(
        name=ALERTS,
        minimum_interval_seconds=every_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells INGEST_ALERT_WEBHOOK of failed runs and ticks, once per incident.",
    )
    def alert_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = datetime.now(UTC)
        watch = alerts.Watch.parse(context.cursor, now)
        look = _Look(context.instance, settings, models, watch, now)
        judged = alerts.judge(watch, [*look.run_endings(), *look.tick_endings()], looked_at=now)
        end = time.monotonic() + alerts.DELIVERY_BUDGET_SECONDS
        told, refusal = alerts.deliver(judged, post, lambda: end - time.monotonic())
        # A failed tick would lose the cursor, and with it what was told.
        return dg.SensorResult(skip_reason=alerts.summary(told, refusal), cursor=told.text())

    return [alert_sensor]


@dataclass(frozen=True, slots=True)
class _Look:
    """What the alert sensor sees of the instance in one tick."""

    instance: dg.DagsterInstance
    settings: Settings
    models: Sequence[str]
    watch: alerts.Watch
    now: datetime

    def run_endings(self) -> Iterator[alerts.Ending]:
        ended = dg.RunsFilter(statuses=FINISHED_RUNS, updated_after=self.watch.since(self.now))
        for record in self.instance.get_run_records(ended):
            run = record.dagster_run
            at = datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)
            failed = run.status is dg.DagsterRunStatus.FAILURE
            name, mark = _job_or_assets(run), run.run_id[:8]
            is_new = mark not in self.watch.seen
            yield alerts.Ending(
                id=mark,
                kind="job",
                name=name,
                at=at,
                outcome=alerts.failed_run(run.tags, at, self.now) if failed else "succeeded",
                message=self._told(_run_failure(self.instance, run)) if failed and is_new else "",
                link=f"{self.settings.dagster_url}/runs/{run.run_id}",
                model=alerts.model_of(name, self.models),
                partition=run.tags.get("dagster/partition"),
                run_id=run.run_id,
            )

    def tick_endings(self) -> Iterator[alerts.Ending]:
        after = self.watch.since(self.now).timestamp()
        for state in self.instance.all_instigator_state():
            # Its own failure would be told by itself.
            if state.instigator_type not in WATCHED or state.instigator_name == ALERTS:
                continue
            for tick in self.instance.get_ticks(
                state.instigator_origin_id, state.selector_id, after=after, statuses=FINISHED_TICKS
            ):
                yield self._tick_ending(state, tick)

    def _tick_ending(self, state: InstigatorState, tick: InstigatorTick) -> alerts.Ending:
        kind, name = WATCHED[state.instigator_type], state.instigator_name
        failed = tick.status is TickStatus.FAILURE
        location = state.origin.repository_origin.code_location_origin.location_name
        return alerts.Ending(
            id=str(tick.tick_id),
            kind=kind,
            name=name,
            at=datetime.fromtimestamp(tick.timestamp, UTC),
            outcome="failed" if failed else "succeeded",
            message=self._told(_cause(tick.error)) if failed else "",
            link=f"{self.settings.dagster_url}/locations/{location}/{kind}s/{name}",
            model=alerts.model_of(name, self.models),
        )

    def _told(self, message: str) -> str:
        return alerts.redacted(message, self.settings.secrets)


def _job_or_assets(run: dg.DagsterRun) -> str:
    """What a person would call it: runs launched from an asset's page share one hidden job."""
    if run.job_name.startswith("__") and run.asset_selection:
        return ", ".join(sorted(key.to_user_string() for key in run.asset_selection))
    return run.job_name


def _run_failure(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Why the run failed: the words of its first failed step, else Dagster's own."""
    ended = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
    event = ended[-1].event_log_entry.dagster_event if ended else None
    if event is None:
        return ""
    # Of a run that a monitor or a person declared dead there is no more than a message.
    why = event.event_specific_data
    step = why.first_step_failure_event if isinstance(why, JobFailureData) else None
    if step is None:
        return event.message or ""
    failure = step.step_failure_data
    described = failure.user_failure_data and failure.user_failure_data.description
    return described or _cause(failure.error)


def _cause(error: SerializableErrorInfo | None) -> str:
    while error is not None and error.cause is not None and error.cls_name in WRAPPERS:
        error = error.cause
    return "" if error is None else error.message.strip()


def ghost_sensor(environ: Mapping[str, str]) -> dg.SensorDefinition:
    """The sensor that ends dead runs, of every model that may have some, and of the organisms."""
    sources = sources_of(Settings.from_environment(environ))

    @dg.sensor(
        name="ghosts",
        minimum_interval_seconds=GHOST_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends runs that Dagster takes for running and that were silent for 15 minutes.",
    )
    def ghost_sensor(
        context: dg.SensorEvaluationContext, catalog: dg.ResourceParam[Catalog]
    ) -> dg.SensorResult:
        before = Suspects.parse(context.cursor)
        ended, suspects = end_ghosts(context.instance, catalog, sources, before, now=datetime.now(UTC))
        told = "; ".join(f"ended run {ghost.run_id}: {ghost.why}" for ghost in ended) or "none"
        return dg.SensorResult(skip_reason=told, cursor=suspects.text())

    return ghost_sensor


def sources_of(settings: Settings) -> dict[str, str]:
    """The ledger's name of what each job ingests, and each run that was launched from an asset's page."""
    weather = {
        name: model.source_name
        for model in load_models(settings.weather_models)
        for name in (f"ingest_{model.id}", f"weather/{model.id}/grids")
    }
    genomes = sorted(key.to_user_string() for key in silo_import.keys)
    return weather | dict.fromkeys((import_silo.name, ", ".join(genomes)), SOURCE)


def end_ghosts(
    instance: dg.DagsterInstance,
    catalog: Catalog,
    sources: Mapping[str, str],
    before: Suspects,
    *,
    now: datetime,
) -> tuple[tuple[Ghost, ...], Suspects]:
    """End the runs that nobody works on any more, each with the reason; whom the last look did not suspect
    is suspected only. Returns those that were ended, and the suspects for the next look.

    `sources`: the ledger's name of what a job, or an asset by its path, ingests. An ended run's pool has its
    slot back at once, for pools count whole runs; Dagster launches it again as any whose worker crashed.
    """
    started = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    running = [found for record in started if (found := _running(record, sources)) is not None]
    sure, suspects = confirm(before, ghosts(catalog, running, now=now), now=now)
    ended = []
    for ghost in sure:
        run = instance.get_run_by_id(ghost.run_id)
        # It may have ended, or been deleted, while the ledger was asked.
        if run is None or run.is_finished:
            continue
        crashed = JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION)
        instance.report_run_failed(run, ghost.why, crashed)
        ended.append(ghost)
    return tuple(ended), suspects


def _running(record: dg.RunRecord, sources: Mapping[str, str]) -> Running | None:
    """The run as the ledger knows it; None if it is none that holds leases."""
    run = record.dagster_run
    source, partition = sources.get(_job_or_assets(run)), run.tags.get("dagster/partition")
    if source is None or partition is None or record.start_time is None:
        return None
    return Running(run.run_id, source, partition, datetime.fromtimestamp(record.start_time, UTC))

"""The `ingest` command: the same functions as Dagster's sensors and runs, for cron and for people."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ingest_platform.errors import IngestError, PermanentError
from ingest_platform.settings import Settings
from ingest_platform.weather.config import load_models
from ingest_platform.weather.model import Model

if TYPE_CHECKING:
    from ingest_platform.catalog.ledger import Catalog
    from ingest_platform.weather.ingest import Report
    from ingest_platform.weather.status import ModelStatus

# Exit codes of `ingest once`; click itself ends wrong usage with 2.
DONE, UNFINISHED = 0, 1
# A materialization a minute and partition is enough for the UI; more would only grow the event log.
REPORT_EVERY_SECONDS = 60.0

models_option = click.option(
    "--models", help="Comma-separated ids, families or aliases, e.g. gfs,goes18. Default: all."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


@click.group()
def main() -> None:
    """Ingest weather grids into the published store, and see how they are."""


@main.command()
@models_option
@click.option(
    "--now",
    type=click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]),
    help="Discover as if it were this time, UTC.",
)
@json_option
def once(models: str | None, now: datetime | None, as_json: bool) -> None:
    """Discover and ingest everything that is due, then end."""
    from ingest_platform.weather import feed

    settings, chosen = _read(models)
    clock = None if now is None else lambda: now.replace(tzinfo=UTC)
    with _told_in_a_sentence(), feed.open_rails(settings, clock=clock) as rails:
        before = _counts(rails.catalog, chosen, "quarantined")
        reports = feed.once(rails, chosen, owner=_owner())
        unfinished = _counts(rails.catalog, chosen, "pending")
        # An object that killed its worker three times is quarantined by the claim, and is in no report.
        quarantined = any(n > before[m] for m, n in _counts(rails.catalog, chosen, "quarantined").items())
    if as_json:
        click.echo(json.dumps({"reports": [_plain(r) for r in reports], "pending": unfinished}))
    else:
        _print_reports(reports)
    whole = not quarantined and not any(unfinished.values()) and not any(r.errors for r in reports)
    sys.exit(DONE if whole else UNFINISHED)


@main.command()
@models_option
@click.option(
    "--poll-interval",
    type=click.FloatRange(min=0.1),
    help="Seconds between two listings. Default: a twentieth of the model's.",
)
def run(models: str | None, poll_interval: float | None) -> None:
    """Follow the sources until SIGINT or SIGTERM, for low latency; tells Dagster what it made."""
    from ingest_platform.weather import feed

    settings, chosen = _read(models)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _told_in_a_sentence(), feed.open_rails(settings) as rails:
        teller = _Teller(rails.catalog)
        feed.follow(
            rails, chosen, owner=_owner(), interval_seconds=poll_interval, stop=stop, report=teller.tell
        )


@main.command()
@models_option
@json_option
def status(models: str | None, as_json: bool) -> None:
    """Per model: last success, lag, next poll, completeness, waiting, quarantine, last errors."""
    from ingest_platform.catalog.ledger import Catalog
    from ingest_platform.weather.status import status_of

    settings, chosen = _read(models)
    with _told_in_a_sentence(), Catalog.open(settings.catalog_url) as catalog:
        states = [status_of(catalog, model, datetime.now(UTC)) for model in chosen]
    if as_json:
        click.echo(json.dumps([asdict(state) for state in states], default=str))
    else:
        Console().print(_table(states))


def _read(models: str | None) -> tuple[Settings, tuple[Model, ...]]:
    """Settings and the chosen models; wrong usage ends with exit code 2. Makes the home folder."""
    try:
        settings = Settings.from_environment(os.environ)
        only = models.split(",") if models is not None else settings.enabled_models
        chosen = load_models(settings.weather_models, only=only)
    except (PermanentError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    settings.home.mkdir(parents=True, exist_ok=True)
    return settings, chosen


@contextmanager
def _told_in_a_sentence() -> Iterator[None]:
    """What stops the whole command says so as a person would; the exit code is 1."""
    try:
        yield
    except IngestError as error:
        raise click.ClickException(str(error)) from error


def _counts(catalog: Catalog, models: Sequence[Model], state: str) -> dict[str, int]:
    return {model.id: catalog.overview(model.source_name).objects.get(state, 0) for model in models}


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class _Teller:
    """Prints what was ingested and reports it to Dagster, where DAGSTER_HOME names an instance."""

    def __init__(self, catalog: Any) -> None:
        self.catalog = catalog
        self.told: dict[str, datetime] = {}
        self.lock = threading.Lock()

    def tell(self, report: Report) -> None:
        for error in report.errors:
            click.echo(f"{report.model.id} {report.partition}: {error}", err=True)
        if not report.published:
            return
        what = f"{report.grids} grids of {report.published} objects"
        click.echo(f"{report.model.id} {report.partition}: {what} in {report.seconds:.2f} s")
        if os.environ.get("DAGSTER_HOME") and self._is_time(f"{report.model.id}/{report.partition}"):
            self._report_to_dagster(report)

    def _is_time(self, what: str) -> bool:
        with self.lock:
            now = datetime.now(UTC)
            last = self.told.get(what)
            if last is not None and (now - last).total_seconds() < REPORT_EVERY_SECONDS:
                return False
            self.told[what] = now
            return True

    def _report_to_dagster(self, report: Report) -> None:
        from ingest_platform.weather.defs import report_to_dagster
        from ingest_platform.weather.summary import metadata

        live = self.catalog.published(report.model.source_name, report.partition)
        if live is not None:
            report_to_dagster(
                report.model, report.partition, metadata(report, live.artifacts, datetime.now(UTC))
            )


def _plain(report: Report) -> dict[str, Any]:
    return {
        "model": report.model.id,
        "partition": report.partition,
        "published": report.published,
        "partial": report.partial,
        "postponed": report.postponed,
        "failed": report.failed,
        "grids": report.grids,
        "bytes_read": report.bytes_read,
        "bytes_stored": report.bytes_stored,
        "seconds": round(report.seconds, 3),
        "errors": report.errors,
    }


def _print_reports(reports: Sequence[Report]) -> None:
    table = Table(title="ingested")
    for column in ("model", "partition", "objects", "partial", "waiting", "failed", "grids", "MB", "s"):
        table.add_column(column, justify="left" if column in ("model", "partition") else "right")
    for r in reports:
        numbers = (
            r.published,
            r.partial,
            r.postponed,
            r.failed,
            r.grids,
            f"{r.bytes_stored / 1e6:.1f}",
            f"{r.seconds:.1f}",
        )
        table.add_row(r.model.id, r.partition, *map(str, numbers))
    Console().print(table)
    for report in reports:
        for error in report.errors:
            click.echo(error, err=True)


def _table(states: Sequence[ModelStatus]) -> Table:
    table = Table(title="weather")
    for column in (
        "model",
        "last success",
        "lag",
        "next poll",
        "complete",
        "waiting",
        "quarantine",
        "last errors",
    ):
        table.add_column(column)
    for s in states:
        table.add_row(
            s.model,
            "never" if s.last_success is None else f"{s.last_success:%Y-%m-%d %H:%M:%S}Z",
            "" if s.lag_seconds is None else f"{s.lag_seconds / 60:.0f} min",
            "now" if s.next_poll is None else f"{s.next_poll:%H:%M:%S}Z",
            s.completeness,
            str(s.waiting),
            str(s.quarantined),
            "\n".join(s.last_errors[:3]),
        )
    return table


if __name__ == "__main__":
    main(prog_name=Path(sys.argv[0]).name)

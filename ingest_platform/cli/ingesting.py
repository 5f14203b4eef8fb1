"""`ingest once`, `run` and `status`: bring data in, once or for ever, and see how the models are."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ingest_platform.cli.choice import (
    DONE,
    UNFINISHED,
    Choice,
    json_option,
    models_option,
    owner,
    read_choice,
    told_in_a_sentence,
    until_signalled,
)
from ingest_platform.cli.organisms import (
    left_undone,
    plain,
    print_reports,
    table_of,
    tell,
    tell_undone,
    whole,
)
from ingest_platform.weather.model import Model

if TYPE_CHECKING:
    from ingest_platform.catalog.ledger import Catalog
    from ingest_platform.silo.ingest import Report as Import
    from ingest_platform.weather.ingest import Report
    from ingest_platform.weather.status import ModelStatus
    from ingest_platform.weather.telling import Teller

# Dagster shows a run's data within this; radar comes every two minutes.
TELL_EVERY_SECONDS = 1.0


@click.command()
@models_option
@click.option(
    "--now",
    type=click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]),
    help="Discover as if it were this time, UTC.",
)
@click.option(
    "--accept-row-drop", is_flag=True, help="Import the organisms anew, and publish however few rows."
)
@json_option
def once(models: str | None, now: datetime | None, accept_row_drop: bool, as_json: bool) -> None:
    """Discover and ingest everything that is due, then end."""
    from ingest_platform.silo import feed as silo
    from ingest_platform.weather import feed

    choice = read_choice(models)
    at = None if now is None else now.replace(tzinfo=UTC)
    stop = until_signalled()
    with told_in_a_sentence(), feed.open_rails(choice.settings) as rails:
        before = _waiting_and_quarantined(rails.catalog, choice.models)
        reports = list(feed.once(rails, choice.models, owner=owner(), now=at, stop=stop.is_set))
        after = _waiting_and_quarantined(rails.catalog, choice.models)
        genomes = silo.rails_over(rails.catalog, rails.store, choice.settings, stop=stop)
        organisms = () if stop.is_set() else choice.organisms
        imports = list(silo.once(genomes, organisms, owner=owner(), accept_row_drop=accept_row_drop))
        undone = left_undone(rails.catalog, choice.organisms)
    unfinished = {model: waiting for model, (waiting, _) in after.items()}
    # An object that killed its worker three times is quarantined by the claim, and is in no report.
    quarantined = any(after[model][1] > before[model][1] for model in after)
    if as_json:
        waiting = unfinished | {organism: len(sentences) for organism, sentences in undone.items()}
        told = {"reports": [_plain(r) for r in reports], "pending": waiting, "undone": undone}
        click.echo(json.dumps(told | {"organisms": [plain(made) for made in imports]}))
    else:
        _print(choice, reports, imports)
        tell_undone(imports, undone)
    troubled = stop.is_set() or quarantined or any(unfinished.values()) or any(r.errors for r in reports)
    sys.exit(DONE if not troubled and whole(imports, undone) else UNFINISHED)


@click.command()
@models_option
@click.option(
    "--poll-interval",
    type=click.FloatRange(min=0.1),
    help="Seconds between two listings. Default: a twentieth of the model's; as the organism has it.",
)
def run(models: str | None, poll_interval: float | None) -> None:
    """Follow the sources until SIGINT or SIGTERM, for low latency; tells Dagster what it made."""
    from ingest_platform.silo import feed as silo
    from ingest_platform.weather import feed

    choice = read_choice(models)
    stop = until_signalled()
    with (
        told_in_a_sentence(),
        feed.open_rails(choice.settings) as rails,
        _telling_dagster(rails.catalog, stop) as keep,
    ):
        follow_models = partial(
            feed.follow,
            rails,
            choice.models,
            owner=owner(),
            interval_seconds=poll_interval,
            stop=stop,
            report=partial(_print_made, keep),
        )
        follow_organisms = partial(
            silo.follow,
            silo.rails_over(rails.catalog, rails.store, choice.settings, stop=stop),
            choice.organisms,
            owner=owner(),
            interval_seconds=poll_interval,
            stop=stop,
            report=tell,
        )
        feeds = [
            each
            for each, some in [(follow_models, choice.models), (follow_organisms, choice.organisms)]
            if some
        ]
        _all_of(feeds, stop)


def _all_of(feeds: Sequence[Callable[[], None]], stop: threading.Event) -> None:
    """Run them until all have ended; one that breaks stops the others, and its error is raised."""

    def follow(feed: Callable[[], None]) -> None:
        try:
            feed()
        finally:
            stop.set()

    with ThreadPoolExecutor(max(1, len(feeds)), thread_name_prefix="source") as threads:
        for done in [threads.submit(follow, feed) for feed in feeds]:
            done.result()


@click.command()
@models_option
@json_option
def status(models: str | None, as_json: bool) -> None:
    """Per model and organism: last success, lag, completeness, waiting, quarantine, last errors."""
    from ingest_platform.catalog.ledger import Catalog
    from ingest_platform.silo.status import status_of as status_of_organisms
    from ingest_platform.weather.status import status_of

    choice = read_choice(models)
    poll_interval = choice.settings.poll_interval
    with told_in_a_sentence(), Catalog.open(choice.settings.catalog_url) as catalog:
        now = datetime.now(UTC)
        states = [status_of(catalog, model, now, poll_interval=poll_interval) for model in choice.models]
        genomes = status_of_organisms(catalog, choice.organisms, now)
    if as_json:
        click.echo(json.dumps([*map(asdict, states), *map(asdict, genomes)], default=str))
        return
    if states:
        Console().print(_table(states))
    if genomes:
        Console().print(table_of(genomes))


def _print(choice: Choice, reports: Sequence[Report], imports: Sequence[Import]) -> None:
    if choice.models:
        _print_reports(reports)
    if choice.organisms:
        print_reports(imports)


def _waiting_and_quarantined(catalog: Catalog, models: Sequence[Model]) -> dict[str, tuple[int, int]]:
    found = {gauges.source: (gauges.pending, gauges.quarantined) for gauges in catalog.gauges()}
    return {model.id: found.get(model.source_name, (0, 0)) for model in models}


def _print_made(keep: Callable[[Report], None], report: Report) -> None:
    for error in report.errors:
        click.echo(f"{report.model.id} {report.partition}: {error}", err=True)
    if report.published:
        what = f"{report.grids} grids of {report.published} objects"
        click.echo(f"{report.model.id} {report.partition}: {what} in {report.seconds:.2f} s")
        keep(report)


@contextmanager
def _telling_dagster(catalog: Catalog, stop: threading.Event) -> Iterator[Callable[[Report], None]]:
    """Where to put reports for Dagster: a thread passes them on, and the rest is passed on at the end."""
    from ingest_platform.weather.telling import Teller

    if not os.environ.get("DAGSTER_HOME"):
        yield lambda _report: None
        return
    teller, over = Teller(partial(_report_to_dagster, catalog)), threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="tell") as thread:
        telling = thread.submit(_keep_telling, teller, over)
        # What is not foreseen ends the command, as in the feeds: silence would look like health.
        telling.add_done_callback(lambda _: stop.set())
        try:
            yield teller.keep
        finally:
            over.set()
    telling.result()


def _keep_telling(teller: Teller, over: threading.Event) -> None:
    """That Dagster is away must not stop the feed: it is told later."""
    from dagster import DagsterError
    from sqlalchemy.exc import SQLAlchemyError

    last = away = False
    while not last:
        last = over.wait(TELL_EVERY_SECONDS)
        try:
            teller.send_due(all_of_them=last)
            away = False
        # Another process may be making its tables at this moment, its database may restart.
        except (DagsterError, SQLAlchemyError, OSError) as error:
            if not away:
                told = str(error).partition("\n")[0]
                click.echo(f"Dagster was not told yet, the data is published all the same: {told}", err=True)
            away = True


def _report_to_dagster(catalog: Catalog, report: Report) -> None:
    from ingest_platform.weather.defs import report_to_dagster
    from ingest_platform.weather.summary import metadata

    live = catalog.published(report.model.source_name, report.partition)
    if live is not None:
        report_to_dagster(report.model, report.partition, metadata(report, live.artifacts, datetime.now(UTC)))


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

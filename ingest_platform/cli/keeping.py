"""`ingest purge`, `reconcile`, `requeue`, `unpin` and `metrics`: keep the store tidy, and show how it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ingest_platform.cli.choice import (
    DONE,
    UNFINISHED,
    json_option,
    models_option,
    owner,
    read_choice,
    told_in_a_sentence,
    until_signalled,
)
from ingest_platform.silo.read import SOURCE

if TYPE_CHECKING:
    from ingest_platform.catalog.ledger import Catalog

partition_option = click.option(
    "--partition", help="One cycle or hour, as `ingest status` writes it, e.g. 2026-11-21T06."
)


@click.command()
@models_option
@click.option("--dry-run", is_flag=True, help="Show what would go, and touch nothing.")
@json_option
def purge(models: str | None, dry_run: bool, as_json: bool) -> None:
    """Delete what is older than its model's retention; the newest few always stay."""
    from ingest_platform.catalog.ledger import Catalog
    from ingest_platform.operations import retention
    from ingest_platform.storage.store import store_of

    # An organism has no policy: it has no time of its own that could be over.
    choice = read_choice(models, disabled_too=True)
    policies, now = retention.policies(choice.models), datetime.now(UTC)
    with told_in_a_sentence(), Catalog.open(choice.settings.catalog_url) as catalog:
        if dry_run:
            planned = retention.rows(retention.plan(catalog, policies, now=now))
            _show("would be purged", {"partitions": len(planned), "purged": planned}, "purged", as_json)
            return
        done = retention.purge(catalog, store_of(choice.settings), policies, now=now, owner=owner())
        _show("purged", done.facts(), "purged", as_json)
        if done.error is not None:
            raise done.error


@click.command()
@click.option("--apply", is_flag=True, help="Delete the orphans and fetch the lost again; else only list.")
@click.option("--deep", is_flag=True, help="Look for every chunk, not for the snapshots alone.")
@click.option(
    "--max-share",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Where a larger share of the store has no name, nothing is deleted.",
)
@json_option
def reconcile(apply: bool, deep: bool, max_share: float, as_json: bool) -> None:
    """Compare the store with the ledger, both ways."""
    from ingest_platform.catalog.ledger import Catalog
    from ingest_platform.operations import reconcile as operation
    from ingest_platform.storage.store import store_of

    settings = read_choice(None).settings
    with told_in_a_sentence(), Catalog.open(settings.catalog_url) as catalog:
        found = operation.reconcile(
            catalog,
            store_of(settings),
            now=datetime.now(UTC),
            apply=apply,
            deep=deep,
            max_share=max_share,
            owner=owner(),
        )
    if as_json:
        click.echo(json.dumps(found.facts()))
    else:
        click.echo(found.message)
        _print_rows("lost", found.facts()["lost"])
        _print_rows("orphans", found.facts()["orphans"])
    sys.exit(DONE if found.well else UNFINISHED)


@click.command()
@models_option
@partition_option
def requeue(models: str | None, partition: str | None) -> None:
    """Give quarantined objects another try: of all partitions, or of one."""
    _each_source(
        models, partition, lambda catalog, source, key: catalog.requeue(source, key), "objects are due"
    )


@click.command()
@models_option
@partition_option
@click.option("--all", "every", is_flag=True, help="Every partition that was brought back.")
def unpin(models: str | None, partition: str | None, every: bool) -> None:
    """Hand what a backfill brought back to retention again."""
    if every == (partition is not None):
        raise click.UsageError("Name one --partition, or say --all.")
    _each_source(
        models, partition, lambda catalog, source, key: catalog.unpin(source, key), "partitions unpinned"
    )


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9108, show_default=True, help="Prometheus scrapes /metrics, people read /.")
def metrics(host: str, port: int) -> None:
    """Serve the metrics for Prometheus and the status page for people, until SIGINT or SIGTERM."""
    from ingest_platform.operations.server import serve

    choice = read_choice(None)
    models = choice.models
    if choice.settings.poll_interval is not None:
        every = {"poll_interval_seconds": choice.settings.poll_interval}
        models = tuple(model.model_copy(update=every) for model in models)
    try:
        serve(
            choice.settings.catalog_url,
            models,
            choice.organisms,
            stop=until_signalled(),
            host=host,
            port=port,
            dagster_url=choice.settings.dagster_url,
            ready=lambda url: click.echo(f"status page {url}/  metrics {url}/metrics"),
        )
    except OSError as error:
        raise click.ClickException(f"{host}:{port}: {error.strerror}. Choose another --port.") from error


def _each_source(
    models: str | None,
    partition: str | None,
    do: Callable[[Catalog, str, str | None], int],
    told: str,
) -> None:
    """Do it to every chosen model's source and every chosen organism's partition; say to how many things.

    Ends with exit code 1 if none of them has the partition.
    """
    from ingest_platform.catalog.ledger import Catalog

    choice = read_choice(models, disabled_too=True)
    with told_in_a_sentence(), Catalog.open(choice.settings.catalog_url) as catalog:
        chosen = [(model.id, model.source_name, partition) for model in choice.models]
        chosen += [(each.id, SOURCE, each.id) for each in choice.organisms if partition in (None, each.id)]
        if partition is not None:
            chosen = [one for one in chosen if catalog.partition_state(one[1], partition) is not None]
        if not chosen:
            raise click.ClickException(f"Nothing chosen has a partition {partition!r}. Nothing was changed.")
        for name, source, key in chosen:
            click.echo(f"{name}: {do(catalog, source, key)} {told}")


def _show(title: str, facts: Mapping[str, Any], rows: str, as_json: bool) -> None:
    """The facts as JSON, or as a table of the rows among them and a line of the numbers."""
    if as_json:
        click.echo(json.dumps(facts))
        return
    _print_rows(title, facts[rows])
    numbers = ", ".join(f"{name} {value}" for name, value in facts.items() if isinstance(value, int | float))
    click.echo(f"{title}: {numbers}")


def _print_rows(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    if not rows:
        return
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)

"""The `ingest` command: the same functions as Dagster's sensors, runs and schedules, for cron and for people.

This page is its table of contents; `choice.py` holds what the commands share.
"""

import click

from ingest_platform.cli.ingesting import once, run, status
from ingest_platform.cli.keeping import metrics, purge, reconcile, requeue, unpin


@click.group()
def main() -> None:
    """Ingest weather grids and genomes into the published store, keep it tidy, and see how it is."""


for command in (once, run, status, purge, reconcile, requeue, unpin, metrics):
    main.add_command(command)

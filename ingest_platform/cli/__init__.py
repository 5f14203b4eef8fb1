"""The `ingest` command: the same functions as Dagster's sensors, runs and schedules, for cron and for people.

This page is its table of contents; `choice.py` holds the options that the commands share.
"""

import click

from ingest_platform.cli.ingesting import once, run, status


@click.group()
def main() -> None:
    """Ingest weather grids into the published store, keep it tidy, and see how it is."""


for command in (once, run, status):
    main.add_command(command)

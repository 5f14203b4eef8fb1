"""`silo-import`: the seed's container, one organism from its environment, without Dagster.

The same functions as `ingest`, with state in the ledger under INGEST_HOME: a volume of its own, so that a
restart downloads and builds nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

import click

from ingest_platform.cli.choice import DONE, UNFINISHED, owner, told_in_a_sentence, until_signalled
from ingest_platform.cli.organisms import left_undone, tell, tell_undone, whole
from ingest_platform.errors import PermanentError
from ingest_platform.settings import Settings
from ingest_platform.silo.config import organism_from_environment
from ingest_platform.silo.model import Organism


@click.command()
@click.option("--once", is_flag=True, help="Poll, import what is due, then end.")
@click.option("--accept-row-drop", is_flag=True, help="With --once: publish, however few rows there are.")
def main(once: bool, accept_row_drop: bool) -> None:
    """Import BACKEND_BASE_URL's released sequences for SILO, until SIGINT or SIGTERM.

    A signal ends what is under way within seconds; the next start does it again, a whole download excepted.

    With --once: exit code 0 all due work reached a good end; 1 something failed or waits; 2 wrong usage.
    """
    if accept_row_drop and not once:
        raise click.UsageError("--accept-row-drop is for one import: give --once too")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    settings, organism = _configured(os.environ)
    if once:
        sys.exit(_once(settings, organism, accept_row_drop))
    _follow(settings, organism)


def _configured(environ: Mapping[str, str]) -> tuple[Settings, Organism]:
    try:
        return Settings.from_environment(environ), organism_from_environment(environ)
    except PermanentError as error:
        raise click.UsageError(str(error)) from error


def _once(settings: Settings, organism: Organism, accept_row_drop: bool) -> int:
    from ingest_platform.silo import feed

    stop = until_signalled()
    with told_in_a_sentence(), feed.open_rails(settings, stop=stop) as rails:
        reports = list(feed.once(rails, [organism], owner=owner(), accept_row_drop=accept_row_drop))
        undone = left_undone(rails.catalog, [organism])
    for report in reports:
        tell(report)
    tell_undone(reports, undone)
    return DONE if whole(reports, undone) else UNFINISHED


def _follow(settings: Settings, organism: Organism) -> None:
    from ingest_platform.silo import feed

    stop = until_signalled()
    with told_in_a_sentence(), feed.open_rails(settings, stop=stop) as rails:
        feed.follow(rails, [organism], owner=owner(), stop=stop, report=tell)

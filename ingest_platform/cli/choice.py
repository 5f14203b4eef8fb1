"""What the commands share: which models, with which settings, and how they say what stopped them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ingest_platform.errors import IngestError, PermanentError
from ingest_platform.settings import Settings
from ingest_platform.weather.config import load_models
from ingest_platform.weather.model import Model

# Exit codes of the commands that do something; click itself ends wrong usage with 2.
DONE, UNFINISHED = 0, 1

models_option = click.option(
    "--models", help="Comma-separated ids, families or aliases, e.g. gfs,goes18. Default: all."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


def read_choice(models: str | None, *, disabled_too: bool = False) -> tuple[Settings, tuple[Model, ...]]:
    """Settings and the chosen models; wrong usage ends with exit code 2. Makes the home folder.

    Without a choice: the enabled models, or with `disabled_too` all, as their old data lies there.
    """
    try:
        settings = Settings.from_environment(os.environ)
        default = None if disabled_too else settings.enabled_models
        only = models.split(",") if models is not None else default
        chosen = load_models(settings.weather_models, only=only, disabled_too=disabled_too)
    except (PermanentError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    settings.home.mkdir(parents=True, exist_ok=True)
    return settings, chosen


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """What stops the whole command says so as a person would; the exit code is 1."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (IngestError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except DBAPIError as error:
        # Of what SQLAlchemy says only the driver's own words: the rest is the statement.
        told = " ".join(str(error.orig).split())
        raise click.ClickException(f"ledger: {told}. What is published stays. Is the database up?") from error


def until_signalled() -> threading.Event:
    """Set by SIGINT and SIGTERM: what is under way is brought to an end, and the leases are handed back."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def owner() -> str:
    """Who holds a lease, for those who look at the ledger."""
    return f"{socket.gethostname()}:{os.getpid()}"

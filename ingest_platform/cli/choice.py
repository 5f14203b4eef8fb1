"""What the commands share: which models, with which settings, and how they say what stopped them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import click

from ingest_platform.errors import IngestError, PermanentError
from ingest_platform.settings import Settings
from ingest_platform.silo.config import load_organisms
from ingest_platform.silo.model import Organism
from ingest_platform.weather.config import UnknownModel, load_models
from ingest_platform.weather.model import Model

# Exit codes of the commands that do something; click itself ends wrong usage with 2.
DONE, UNFINISHED = 0, 1

models_option = click.option(
    "--models",
    help="Comma-separated ids, families or aliases of models, ids of organisms, e.g. gfs,goes18,ebola."
    " Default: all.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a command works on."""

    settings: Settings
    models: tuple[Model, ...]
    organisms: tuple[Organism, ...]


def read_choice(names: str | None, *, disabled_too: bool = False) -> Choice:
    """Settings and the chosen models and organisms; wrong usage ends with exit code 2. Makes the home folder.

    Without a choice: the enabled models, or with `disabled_too` all, as their old data lies there; and all
    organisms.
    """
    try:
        settings = Settings.from_environment(os.environ)
        organisms = load_organisms(settings.silo_organisms) if settings.silo_organisms else ()
        if names is None:
            only = None if disabled_too else settings.enabled_models
            models = load_models(settings.weather_models, only=only, disabled_too=disabled_too)
        else:
            chosen = [name.strip() for name in names.split(",")]
            models, organisms = _named(settings, organisms, chosen, disabled_too)
    except (PermanentError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    settings.home.mkdir(parents=True, exist_ok=True)
    return Choice(settings, models, organisms)


def _named(
    settings: Settings, organisms: Sequence[Organism], names: Sequence[str], disabled_too: bool
) -> tuple[tuple[Model, ...], tuple[Organism, ...]]:
    """A name that is no organism's must be a model's. PermanentError: it is neither."""
    chosen = tuple(organism for organism in organisms if organism.id in names)
    others = [name for name in names if name not in {organism.id for organism in chosen}]
    if not others:
        return (), chosen
    try:
        return load_models(settings.weather_models, only=others, disabled_too=disabled_too), chosen
    except UnknownModel as error:
        known = ", ".join(organism.id for organism in organisms)
        known = known or "none; INGEST_SILO_ORGANISMS names their file"
        raise PermanentError(f"{error} Organisms: {known}.") from error


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

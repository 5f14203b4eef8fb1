"""The demo's organism: its configuration, its backend, and the line that reads what became of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import yaml

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.demo import loculus
from ingest_platform.demo.loculus import GENOMES, ORGANISM
from ingest_platform.silo.read import live

__all__ = ["GENOMES", "ORGANISM", "engine_is_installed", "imported", "output", "query_line", "serving"]

POLL_SECONDS = 5  # news within a tick of the sensor
QUERY = "default.group({country}, {n := count()})"


def engine_is_installed() -> bool:
    """The rhydb wheel is an extra: the platform does without it."""
    return find_spec("rhydb") is not None


@contextmanager
def serving(home: Path) -> Iterator[Path]:
    """A backend with invented genomes while the block lasts; the file that configures its organism."""
    with loculus.serving(list(loculus.records())) as url:
        organism = {
            "id": ORGANISM,
            "backend_url": f"{url}/{ORGANISM}",
            "lineage_definitions": {"lineages": {1: f"{url}/lineages.yaml"}},
            "preprocessing_config": str(loculus.write_database(home / "organism")),
            "output": str(output(home)),
            "poll_interval_seconds": POLL_SECONDS,
        }
        path = home / "organisms.yaml"
        path.write_text(yaml.safe_dump({"organisms": [organism]}, sort_keys=False))
        yield path


def output(home: Path) -> Path:
    """Where SILO's API would look for indexes."""
    return home / "silo" / ORGANISM


def imported(catalog: Catalog) -> int:
    """Genomes in the live index; 0 before there is one."""
    index = live(catalog, ORGANISM)
    return index.rows if index else 0


def query_line(python: str, folder: str) -> str:
    """A shell line that asks the newest index how many genomes each country has."""
    program = f'import rhydb; print(rhydb.Database("{folder}").query("{QUERY}").to_pylist())'
    return f"{python} -c {shlex.quote(program)}"

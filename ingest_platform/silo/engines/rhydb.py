"""The engine of the rhydb wheel, in a child process: it dies alone, and its memory goes with it.

Reads SILO's own files and says them in the engine's language; the child (`rhydb_child`) only obeys. The
wheel knows no lineage indexes: such a column is an indexed string there.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ingest_platform.errors import StoreUnavailable
from ingest_platform.silo.database import BadDatabaseConfig, Column, Database
from ingest_platform.silo.engines.contract import Built, the_index
from ingest_platform.silo.engines.process import run, scrubbed
from ingest_platform.silo.inputs import Inputs
from ingest_platform.silo.stopping import NEVER

TABLE = "default"  # the table that SILO's API serves
CHILD = "ingest_platform.silo.engines.rhydb_child"
TYPES = frozenset(["string", "int", "int32", "int64", "float", "boolean", "date"])


@dataclass(frozen=True, slots=True)
class RhydbEngine:
    """The wheel, in a process of its own."""

    environ: Mapping[str, str] = field(repr=False)
    python: str = sys.executable

    @property
    def identity(self) -> str:
        try:
            return f"rhydb {version('rhydb')}"
        except PackageNotFoundError:
            return "rhydb, not installed"

    def build(
        self, inputs: Inputs, staging: Path, *, timeout_seconds: float, stop: threading.Event = NEVER
    ) -> Built:
        """As the contract says. The child counts its rows against `inputs.rows` before it saves."""
        began = time.monotonic()
        request, output = staging / "request.json", staging / "output"
        try:
            output.mkdir()
            request.write_text(json.dumps(_request(inputs, output)))
        except OSError as error:
            raise StoreUnavailable(
                f"{staging}: no room for a build: {error}. The published index stays. Make room."
            ) from error
        log_tail = run(
            [self.python, "-P", "-m", CHILD, str(request)],
            environment=scrubbed(self.environ),
            folder=staging,
            log=staging / "engine.log",
            timeout_seconds=timeout_seconds,
            stop=stop,
        )
        return Built(the_index(output, log_tail), log_tail, time.monotonic() - began)


def _request(inputs: Inputs, output: Path) -> dict[str, object]:
    database = inputs.database
    return {
        "references": [
            {"name": reference.name, "type": kind, "sequence": reference.sequence}
            for kind, references in (("nucleotide", database.segments), ("amino_acid", database.genes))
            for reference in references
        ],
        "create": create_table(database),
        "table": TABLE,
        "records": str(inputs.records),
        "rows": inputs.rows,
        "output": str(output),
    }


def create_table(database: Database) -> str:
    """The statement that makes the table of a database. BadDatabaseConfig: a type that the wheel lacks."""
    columns = [f"{_quoted(column.name)} := {_type(column)}" for column in database.columns]
    columns += _sequences(database)
    return f"createTable({TABLE}, {{{', '.join(columns)}}}, primaryKey := {_quoted(database.primary_key)})"


def _type(column: Column) -> str:
    if column.type not in TYPES:
        raise BadDatabaseConfig(
            f"metadata field {column.name}: type {column.type}, but the rhydb engine knows"
            f" {', '.join(sorted(TYPES))}. Nothing was built."
        )
    indexed = column.indexed or column.lineage_system is not None
    return "string(generateIndex := true)" if column.type == "string" and indexed else column.type


def _sequences(database: Database) -> Iterator[str]:
    """unaligned_<segment>, segment, gene: the columns that `record.flatten` writes."""
    without_unaligned = bool(database.preprocessing.get("withoutUnalignedSequences", False))
    for segment in database.segments:
        name = segment.name
        if not without_unaligned:
            same = f"name = {_text(name)} && type = 'nucleotide'"
            dictionary = f"reference_genomes.filter({same}).project({{sequence}})"
            yield f"{_quoted(f'unaligned_{name}')} := zstdCompressedString(dictionary := {dictionary})"
        yield f"{_quoted(name)} := nucleotideSequence(reference := {_quoted(name)})"
    for gene in database.genes:
        yield f"{_quoted(gene.name)} := aminoAcidSequence(reference := {_quoted(gene.name)})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

"""SILO's own three files for an organism: how it is preprocessed, its columns, its reference genomes.

Reads and understands them as far as an import must; the engine judges the rest.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ingest_platform.errors import PermanentError
from ingest_platform.silo.model import Organism
from ingest_platform.silo.released import Layout

# What the engine takes where preprocessing_config.yaml is silent.
DATABASE_CONFIG = "database_config.yaml"
REFERENCE_GENOMES = "reference_genomes.json"


class BadDatabaseConfig(PermanentError):
    """One of SILO's files cannot be read or lacks what an import needs. Nothing was built."""


@dataclass(frozen=True, slots=True)
class Column:
    """One metadata field."""

    name: str
    type: str  # as SILO calls it: string, int, int32, int64, float, date, boolean
    indexed: bool = False
    lineage_system: str | None = None  # stem of the definition file; "" : the only one that there is
    unknown_lineages_are_null: bool = False


@dataclass(frozen=True, slots=True)
class Reference:
    """One segment's or gene's reference sequence."""

    name: str
    sequence: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Database:
    """What the three files say."""

    preprocessing: dict[str, Any] = field(repr=False)
    columns: tuple[Column, ...]
    primary_key: str
    segments: tuple[Reference, ...]
    genes: tuple[Reference, ...]
    files: tuple[Path, ...]  # all that preprocessing names and are not made by an import
    content_hash: str  # sha256 over the files: another one means another index

    @property
    def layout(self) -> Layout:
        return Layout(self.primary_key, tuple(c.name for c in self.columns if c.lineage_system is not None))

    @property
    def records_file(self) -> str:
        """Name under which the engine looks for the records."""
        return str(self.preprocessing.get("ndjsonInputFilename", "data.ndjson.zst"))


# What is known of a database whose files only its runner has: Loculus' own names.
UNKNOWN = Database({}, (), "accessionVersion", (), (), (), "")


def database_of(organism: Organism) -> Database:
    """The organism's database; UNKNOWN where its files are only its runner's. BadDatabaseConfig."""
    config = organism.preprocessing_config
    return UNKNOWN if config is None else read_database(config, organism.database_folder)


def read_database(preprocessing_config: Path, folder: Path | None = None) -> Database:
    """The database that a preprocessing_config.yaml and the files in `folder` describe; by default they lie
    beside it. BadDatabaseConfig.
    """
    folder = folder or preprocessing_config.parent
    preprocessing = _mapping(preprocessing_config, _yaml(preprocessing_config))
    config_file = folder / str(preprocessing.get("databaseConfig", DATABASE_CONFIG))
    reference_file = folder / str(preprocessing.get("referenceGenomeFilename", REFERENCE_GENOMES))
    schema = _mapping(config_file, _mapping(config_file, _yaml(config_file)).get("schema"))
    references = _mapping(reference_file, _json(reference_file))
    tree = preprocessing.get("phyloTreeFilename")
    files = (
        preprocessing_config,
        config_file,
        reference_file,
        *([folder / str(tree)] if tree else []),
        *_own_lineage_files(preprocessing, folder),
    )
    columns = tuple(_column(config_file, each) for each in _list(config_file, schema, "metadata"))
    primary_key = schema.get("primaryKey")
    if primary_key not in {column.name for column in columns}:
        raise BadDatabaseConfig(
            f"{config_file}: schema.primaryKey is {primary_key!r}, which is none of the metadata fields"
            f" {', '.join(column.name for column in columns)}. Nothing was built."
        )
    return Database(
        preprocessing,
        columns,
        str(primary_key),
        _references(reference_file, references, "nucleotideSequences"),
        _references(reference_file, references, "genes"),
        files,
        _hash(files),
    )


def _own_lineage_files(preprocessing: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Definitions that lie beside the configuration; those that do not are fetched for each release."""
    given = preprocessing.get("lineageDefinitionFilenames") or []
    for name in [given] if isinstance(given, str) else given:
        if (folder / str(name)).exists():
            yield folder / str(name)


def _yaml(path: Path) -> object:
    try:
        return yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise BadDatabaseConfig(f"{path}: cannot be read: {error}. Nothing was built.") from error
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise BadDatabaseConfig(f"{path}: not YAML: {told}. Nothing was built.") from error


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise BadDatabaseConfig(f"{path}: cannot be read: {error}. Nothing was built.") from error
    except ValueError as error:
        raise BadDatabaseConfig(f"{path}: not JSON: {error}. Nothing was built.") from error


def _mapping(path: Path, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadDatabaseConfig(f"{path}: expected a mapping, found {str(value)[:80]!r}. Nothing was built.")
    return value


def _list(path: Path, mapping: dict[str, Any], key: str) -> list[Any]:
    value = mapping.get(key)
    if not isinstance(value, list):
        raise BadDatabaseConfig(f"{path}: expected a list under {key}, found {value!r}. Nothing was built.")
    return value


def _column(path: Path, given: object) -> Column:
    entry = _mapping(path, given)
    name, kind = entry.get("name"), entry.get("type")
    if not isinstance(name, str) or not isinstance(kind, str):
        raise BadDatabaseConfig(f"{path}: a metadata field needs name and type: {entry}. Nothing was built.")
    lineage = entry.get("generateLineageIndex")
    return Column(
        name,
        kind,
        indexed=bool(entry.get("generateIndex", False)),
        lineage_system=_system(lineage),
        unknown_lineages_are_null=bool(entry.get("treatUnknownLineagesAsNull", False)),
    )


def _system(lineage: object) -> str | None:
    """A definition file's stem; engines before 0.9 knew one file only and said true."""
    if lineage is None or lineage is False:
        return None
    return "" if lineage is True else str(lineage).removesuffix(".yaml").removesuffix(".yml")


def _references(path: Path, references: dict[str, Any], key: str) -> tuple[Reference, ...]:
    entries = [_mapping(path, entry) for entry in _list(path, references, key)]
    try:
        return tuple(Reference(str(entry["name"]), str(entry["sequence"])) for entry in entries)
    except KeyError as error:
        raise BadDatabaseConfig(f"{path}: an entry of {key} lacks {error}. Nothing was built.") from error


def _hash(files: tuple[Path, ...]) -> str:
    total = hashlib.sha256()
    for path in files:
        try:
            total.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise BadDatabaseConfig(f"{path}: cannot be read: {error}. Nothing was built.") from error
    return total.hexdigest()

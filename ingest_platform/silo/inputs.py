"""One folder with all that an engine reads for one build: records, lineage files, SILO's own files.

Made anew for each build, so that records never meet another release's lineage file.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ingest_platform.errors import StoreUnavailable
from ingest_platform.silo.database import Database
from ingest_platform.silo.lineage import LineageFile
from ingest_platform.silo.record import TRANSFORM_VERSION

CONFIG = "preprocessing_config.yaml"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one build reads. `config` names every other file, and the folder that the index goes to."""

    folder: Path
    records: Path  # SILO's NDJSON, zstd
    rows: int
    lineages: tuple[Path, ...]
    config: Path  # preprocessing_config.yaml, made for this build
    database: Database


def lay_out(
    folder: Path,
    database: Database,
    records: Path,
    rows: int,
    lineages: Sequence[LineageFile],
    *,
    staging: Path,
) -> Inputs:
    """Put all inputs of a build into the new folder `folder`; `staging` is where its index will go.

    `records` is linked, not copied, where it lies on the same disk. StoreUnavailable.
    """
    try:
        folder.mkdir(parents=True)
        placed = folder / database.records_file
        _place(records, placed)
        for file in database.files:
            shutil.copyfile(file, folder / file.name)
        for lineage in lineages:
            (folder / lineage.file_name).write_bytes(lineage.content)
        config = folder / CONFIG
        config.write_text(yaml.safe_dump(_preprocessing(database, folder, lineages, staging)))
    except OSError as error:
        raise StoreUnavailable(
            f"{folder}: the inputs of a build cannot be laid out: {error}. The published index stays. Make"
            " room, or move the scratch folder."
        ) from error
    files = tuple(folder / lineage.file_name for lineage in lineages)
    return Inputs(folder, placed, rows, files, config, database)


def index_hash(
    content_hash: str, lineages: Sequence[LineageFile], database: Database, engine_identity: str
) -> str:
    """What an index is made of, as one sha256; the same: the same index, nothing to build.

    `content_hash`: of the released records. A changed lineage file, database config, engine or
    transformation builds anew although the records are the same.
    """
    parts = [
        content_hash,
        *(f"{lineage.system} {lineage.content_hash}" for lineage in lineages),
        database.content_hash,
        engine_identity,
        f"transformation {TRANSFORM_VERSION}",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _place(records: Path, placed: Path) -> None:
    try:
        os.link(records, placed)
    except OSError:
        shutil.copyfile(records, placed)


def _preprocessing(
    database: Database, folder: Path, lineages: Sequence[LineageFile], staging: Path
) -> dict[str, object]:
    changed: dict[str, object] = {
        "inputDirectory": f"{folder}/",
        "outputDirectory": f"{staging}/",
        "ndjsonInputFilename": database.records_file,
    }
    fetched = {lineage.file_name for lineage in lineages}
    named = database.preprocessing.get("lineageDefinitionFilenames") or []
    own = {file.name for file in database.files} & set([named] if isinstance(named, str) else named)
    if fetched | own:
        changed["lineageDefinitionFilenames"] = sorted(fetched | own)
    return {**database.preprocessing, **changed}

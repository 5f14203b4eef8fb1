"""SILO's own three files: understood as far as an import needs, refused by name where they are wrong."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from ingest_platform.silo.database import BadDatabaseConfig, database_of, read_database
from ingest_platform.silo.engines.rhydb import create_table
from ingest_platform.silo.inputs import index_hash, lay_out
from ingest_platform.silo.lineage import LineageFile
from ingest_platform.silo.model import Organism
from ingest_platform_tests.silo_world import write_database


def test_the_files_say_which_fields_an_import_looks_at(tmp_path: Path) -> None:
    """Else primary keys and lineages are looked for under another name."""
    database = read_database(write_database(tmp_path, lineage_system="pango.yaml"))

    assert database.layout.primary_key == "accessionVersion"
    assert database.layout.lineage_fields == ("lineage",)
    assert [column.lineage_system for column in database.columns if column.lineage_system] == ["pango"]
    assert database.records_file == "data.ndjson.zst"


def test_a_change_of_any_file_is_another_database(tmp_path: Path) -> None:
    """Else a new column appears with the next release only."""
    config = write_database(tmp_path)
    hashes = {read_database(config).content_hash}

    for name in ("database_config.yaml", "reference_genomes.json", "preprocessing_config.yaml"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
        hashes.add(read_database(config).content_hash)

    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("database_config.yaml", "schema: {metadata: [], primaryKey: x}", "primaryKey is 'x', which is none"),
        ("database_config.yaml", "schema: [", "not YAML"),
        ("database_config.yaml", "schema: {metadata: [{name: a}]}", "needs name and type"),
        ("database_config.yaml", "{}", "expected a mapping"),
        ("reference_genomes.json", "{", "not JSON"),
        (
            "reference_genomes.json",
            '{"nucleotideSequences": [{"name": "main"}], "genes": []}',
            "lacks 'sequence'",
        ),
        ("reference_genomes.json", '{"genes": []}', "expected a list under nucleotideSequences"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(file: str, text: str, words: str, tmp_path: Path) -> None:
    """Else the engine says so, an hour later, without the file's name."""
    config = write_database(tmp_path)
    (tmp_path / file).write_text(text)

    with pytest.raises(BadDatabaseConfig, match=f"(?s){file}: .*{words}"):
        read_database(config)


@pytest.mark.silo_case(24)
def test_a_build_reads_its_own_copy_of_every_file(tmp_path: Path) -> None:
    """Else records of one release meet the lineages of another, or a file that was left behind."""
    config = write_database(tmp_path / "config")
    config.write_text(json.dumps({"lineageDefinitionFilenames": ["own.yaml", "pango.yaml"]}))
    (tmp_path / "config" / "own.yaml").write_text("A: {}")
    (tmp_path / "records").write_bytes(b"packed")
    fetched = LineageFile("pango", 2, "http://host/2.yaml", b"B: {}", frozenset(["B"]))

    inputs = lay_out(
        tmp_path / "in",
        read_database(config),
        tmp_path / "records",
        1,
        [fetched],
        staging=tmp_path / "staging",
    )

    made = yaml.safe_load(inputs.config.read_text())
    assert made["lineageDefinitionFilenames"] == ["own.yaml", "pango.yaml"]
    assert (made["inputDirectory"], made["outputDirectory"]) == (f"{tmp_path}/in/", f"{tmp_path}/staging/")
    assert (tmp_path / "in" / "pango.yaml").read_bytes() == b"B: {}"
    assert (tmp_path / "in" / "data.ndjson.zst").read_bytes() == b"packed"
    assert {path.name for path in (tmp_path / "in").iterdir()} >= {"own.yaml", "database_config.yaml"}


@pytest.mark.silo_case(21)
def test_whatever_an_index_is_made_of_makes_another_index(tmp_path: Path) -> None:
    """Else a corrected lineage file, a new column or a new engine waits for the next release."""
    database = read_database(write_database(tmp_path / "one"))
    other = read_database(write_database(tmp_path / "two", lineage_system="pango"))
    file = LineageFile("pango", 1, "url", b"A: {}", frozenset())
    changed = LineageFile("pango", 1, "url", b"B: {}", frozenset())

    made = [
        index_hash("records", [file], database, "rhydb 1"),
        index_hash("other records", [file], database, "rhydb 1"),
        index_hash("records", [changed], database, "rhydb 1"),
        index_hash("records", [], database, "rhydb 1"),
        index_hash("records", [file], other, "rhydb 1"),
        index_hash("records", [file], database, "rhydb 2"),
    ]

    assert len(set(made)) == 6
    assert made[0] == index_hash("records", [file], database, "rhydb 1")


def test_a_runners_own_database_is_not_guessed_at(tmp_path: Path) -> None:
    """Else an importer without SILO's files cannot start, or checks lineages that it knows nothing of."""
    settings = {"id": "x", "backend_url": "http://host/x", "output": tmp_path}
    runner = {"kind": "sentinel", "exchange": tmp_path}

    database = database_of(Organism.model_validate(settings | {"engine": runner}))

    assert (database.layout.primary_key, database.layout.lineage_fields) == ("accessionVersion", ())
    with pytest.raises(ValidationError, match="rhydb engine cannot do without it"):
        Organism.model_validate(settings)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Else a mistyped path is an empty database."""
    with pytest.raises(BadDatabaseConfig, match=r"none\.yaml: cannot be read"):
        read_database(tmp_path / "none.yaml")


def test_the_rhydb_engine_gets_every_column_under_its_own_name(tmp_path: Path) -> None:
    """Else a name with a hyphen or a quote breaks the statement, or does something else."""
    config = write_database(tmp_path)
    text = json.loads((tmp_path / "database_config.yaml").read_text())
    text["schema"]["metadata"].append({"name": 'host "x"-y', "type": "date"})
    (tmp_path / "database_config.yaml").write_text(json.dumps(text))

    statement = create_table(read_database(config))

    assert statement.startswith('createTable(default, {"pipelineVersion" := int, ')
    assert '"lineage" := string(generateIndex := true)' in statement
    assert '"host ""x""-y" := date' in statement
    assert '"gene1" := aminoAcidSequence(reference := "gene1")' in statement
    assert statement.endswith('primaryKey := "accessionVersion")')


def test_a_type_that_the_rhydb_engine_lacks_is_named(tmp_path: Path) -> None:
    """Else the statement fails with a position in a line of 5,000 letters."""
    config = write_database(tmp_path)
    path = tmp_path / "database_config.yaml"
    path.write_text(path.read_text().replace('"int"', '"pango_lineage"'))

    with pytest.raises(BadDatabaseConfig, match="pipelineVersion: type pango_lineage"):
        create_table(read_database(config))

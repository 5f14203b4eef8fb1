"""Organisms from a YAML file and from a container's environment; mistakes by file, line and key."""

from pathlib import Path

import pytest

from ingest_platform.silo.config import BadOrganismFile, load_organisms, organism_from_environment
from ingest_platform.silo.database import database_of
from ingest_platform_tests.silo_world import write_database

ONE = """
organisms:
  - id: ebola
    backend_url: http://host:8079/ebola//
    preprocessing_config: config/preprocessing_config.yaml
    output: out/ebola
    lineage_definitions:
      pango: {1: "http://host/1.yaml", 2: "http://host/2.yaml"}
"""
FILTERED = ONE + "    hierarchical_filters: {hostTaxonId: http://taxonomy:5000/}\n"
URL = {"BACKEND_BASE_URL": "http://host:8079/ebola/"}


def written(folder: Path, text: str) -> Path:
    path = folder / "organisms.yaml"
    path.write_text(text)
    return path


def test_an_organism_is_what_its_file_says(tmp_path: Path) -> None:
    """Else the importer asks another backend, or writes into another folder."""
    (organism,) = load_organisms(written(tmp_path, ONE))

    assert (organism.id, organism.backend_url) == ("ebola", "http://host:8079/ebola")
    assert organism.output == tmp_path / "out" / "ebola"
    assert organism.lineage_definitions["pango"][2] == "http://host/2.yaml"
    assert (organism.keep, organism.hard_refresh_seconds, organism.engine.kind) == (2, 3600, "rhydb")


def test_a_hierarchical_filter_is_a_field_and_its_service(tmp_path: Path) -> None:
    """Else hosts can be searched by their names only in the original container."""
    (organism,) = load_organisms(written(tmp_path, FILTERED))

    assert organism.hierarchical_filters == {"hostTaxonId": "http://taxonomy:5000/"}


def test_all_mistakes_are_told_at_once_with_line_and_key(tmp_path: Path) -> None:
    """Else a file with three mistakes takes three restarts."""
    text = (
        ONE.replace("//", "").replace("http:host", "host")
        + "    kepe: 3\n    keep: 0\n    engine: {kind: cli}\n"
    )

    with pytest.raises(BadOrganismFile) as refused:
        load_organisms(written(tmp_path, text))

    told = str(refused.value).splitlines()
    assert any(
        "organisms.yaml:9: organisms[0].kepe: no such setting. Did you mean keep?" in line for line in told
    )
    assert any("organisms.yaml:10: organisms[0].keep: " in line and "found 0" in line for line in told)
    assert any(
        "organisms.yaml:11: organisms[0].engine: binary: the cli engine needs it" in line for line in told
    )
    assert any("organisms.yaml:4: organisms[0].backend_url: " in line for line in told)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("organisms: {}", "expected one key, organisms, with a list"),
        ("other: []", "expected one key"),
        ("organisms: [", r"organisms\.yaml:1: not YAML"),
        (ONE + ONE.removeprefix("\norganisms:\n"), "'ebola' is already another organism's"),
        (ONE + "    id: zika\n", r"organisms\.yaml:9: organisms\[0\]\.id: given twice|id: given twice"),
        (ONE.replace("{1:", "{0:"), "expected versions from 1"),
        (ONE.replace("{1:", "{one:"), "lineage_definitions"),
        (FILTERED.replace("http:", "tcp:", 4), r"organisms\.yaml:9: .*hierarchical_filters\.hostTaxonId: "),
        (FILTERED.replace("hostTaxonId", "pango"), r"makes pango\.yaml already"),
    ],
)
def test_a_wrong_file_is_refused_with_its_reason(text: str, words: str, tmp_path: Path) -> None:
    """Else a typo is a default, and the wrong organism is imported."""
    with pytest.raises(BadOrganismFile, match=words):
        load_organisms(written(tmp_path, text))


SENTINELS = """
organisms:
  - {id: a, backend_url: "http://h/a", output: /x/a, engine: {kind: sentinel, exchange: /x/in}}
  - {id: b, backend_url: "http://h/b", output: /x/b, engine: {kind: sentinel, exchange: /x/y/../in}}
  - {id: c, backend_url: "http://h/c", output: /x/a/../b, engine: {kind: sentinel, exchange: /x/in3}}
"""


def test_no_two_organisms_share_a_folder_however_it_is_written(tmp_path: Path) -> None:
    """Else one prunes the other's indexes, or SILO builds one's records under the other's name."""
    with pytest.raises(BadOrganismFile) as refused:
        load_organisms(written(tmp_path, SENTINELS))

    told = str(refused.value)
    assert "organisms.yaml:4: organisms[1].engine.exchange: /x/y/../in is already a's" in told
    assert "organisms.yaml:5: organisms[2].output: /x/a/../b is already b's" in told


@pytest.mark.parametrize("key", ["backend_url", "lineage_definitions.pango.1", "hierarchical_filters.host"])
def test_a_password_in_an_address_is_refused_and_not_shown(key: str, tmp_path: Path) -> None:
    """Else it stands in every error, in the ledger, and on the status page."""
    text = ONE + "    hierarchical_filters: {host: http://taxonomy:5000/}\n"
    before = {"backend_url": "http://host:8079", "lineage_definitions.pango.1": '"http://host/1'}
    place = before.get(key, "http://taxonomy")
    secret = place.replace("http://", "http://user:hunter2@")

    with pytest.raises(BadOrganismFile, match="user:password@, and addresses are shown") as refused:
        load_organisms(written(tmp_path, text.replace(place, secret)))
    assert key.partition(".")[0] in str(refused.value)
    assert "hunter2" not in str(refused.value)
    # As some hosts of definitions write a file's version.
    at = ONE.replace("http://host/1.yaml", "https://cdn/npm/pango@1.2/1.yaml?token=1")
    assert "@" in load_organisms(written(tmp_path, at))[0].lineage_definitions["pango"][1]


def test_an_address_that_goes_on_has_no_query(tmp_path: Path) -> None:
    """Else /get-released-data becomes part of a token."""
    with pytest.raises(BadOrganismFile, match=r"backend_url: .* so it has no \? or #"):
        load_organisms(written(tmp_path, ONE.replace("ebola//", "ebola?token=1")))


def test_only_the_named_organisms_are_taken_and_a_typo_is_told(tmp_path: Path) -> None:
    """Else `ebol` imports nothing and says nothing."""
    path = written(tmp_path, ONE)

    assert [organism.id for organism in load_organisms(path, only=["ebola"])] == ["ebola"]
    with pytest.raises(BadOrganismFile, match="Did you mean ebola"):
        load_organisms(path, only=["ebol"])


def test_a_container_of_the_seed_needs_no_new_settings() -> None:
    """Else replacing the image means rewriting the chart."""
    organism = organism_from_environment(
        URL
        | {
            "LINEAGE_DEFINITIONS": '{"1": "http://host/1.yaml"}',
            "HARD_REFRESH_INTERVAL": "0",
            "SILO_IMPORT_POLL_INTERVAL_SECONDS": "5",
            "SILO_RUN_TIMEOUT_SECONDS": "60",
            "ROOT_DIR": "/srv",
            "HIERARCHICAL_FILTERS": '{"hostTaxonId": "http://taxonomy:5000"}',
            "HOSTNAME": "silo-0",
        }
    )

    assert (organism.id, organism.backend_url) == ("ebola", "http://host:8079/ebola")
    assert organism.lineage_definitions == {"lineage_definitions": {1: "http://host/1.yaml"}}
    assert organism.hierarchical_filters == {"hostTaxonId": "http://taxonomy:5000"}
    assert (organism.hard_refresh_seconds, organism.poll_interval_seconds) == (0, 5)
    assert organism.engine.kind == "sentinel"
    assert organism.engine.exchange == Path("/srv/preprocessing/input")
    assert organism.output == Path("/srv/preprocessing/output")
    assert organism.engine.timeout_seconds == 60


def test_files_that_loculus_mounts_into_the_input_folder_are_found(tmp_path: Path) -> None:
    """Its chart mounts preprocessing_config.yaml elsewhere: a drop-in image would end at its start."""
    config = write_database(tmp_path / "app")
    mounted = tmp_path / "preprocessing" / "input"
    mounted.mkdir(parents=True)
    for name in ("database_config.yaml", "reference_genomes.json"):
        (config.parent / name).rename(mounted / name)
    environ = {
        "BACKEND_BASE_URL": "http://backend:8079/ebola",
        "ROOT_DIR": str(tmp_path),
        "PATH_TO_SILO_BINARY": "/usr/local/bin/silo",
        "PREPROCESSING_CONFIG": str(config),
    }

    database = database_of(organism_from_environment(environ))

    assert database.primary_key == "accessionVersion"
    assert mounted / "reference_genomes.json" in database.files


def test_a_binary_beside_the_importer_is_run_by_it() -> None:
    """Else today's one-image container waits for a runner that is not there."""
    organism = organism_from_environment(
        URL
        | {
            "PATH_TO_SILO_BINARY": "/usr/local/bin/silo",
            "LINEAGE_DEFINITIONS": '{"pango": {"1": "http://host/1.yaml"}}',
        }
    )

    assert (organism.engine.kind, organism.engine.binary) == ("cli", Path("/usr/local/bin/silo"))
    assert organism.lineage_definitions == {"pango": {1: "http://host/1.yaml"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"BACKEND_BASE_URL": ""}, "BACKEND_BASE_URL: expected"),
        ({"BACKEND_BASE_URL": "host/ebola"}, "BACKEND_BASE_URL: "),
        ({"BACKEND_BASE_URL": "http://me:hunter2@host"}, "^((?!hunter2).)*BACKEND_BASE_URL: has user:pass"),
        ({"LINEAGE_DEFINITIONS": "{"}, "LINEAGE_DEFINITIONS: not JSON"),
        ({"LINEAGE_DEFINITIONS": "[1]"}, "LINEAGE_DEFINITIONS: expected a JSON object"),
        ({"LINEAGE_DEFINITIONS": '{"one": "http://host/1.yaml"}'}, "LINEAGE_DEFINITIONS"),
        ({"HIERARCHICAL_FILTERS": "["}, "HIERARCHICAL_FILTERS: not JSON"),
        ({"HIERARCHICAL_FILTERS": '["host"]'}, "HIERARCHICAL_FILTERS: expected a JSON object"),
        ({"HIERARCHICAL_FILTERS": '{"host": "taxonomy"}'}, "HIERARCHICAL_FILTERS.host: .*'taxonomy'"),
        ({"HIERARCHICAL_FILTERS": '{"../host": "http://h"}'}, r"HIERARCHICAL_FILTERS\.\.\./host: "),
        (
            {
                "HIERARCHICAL_FILTERS": '{"host": "http://h"}',
                "LINEAGE_DEFINITIONS": '{"host": {"1": "http://h/1"}}',
            },
            r"hierarchical_filters\.host: lineage_definitions makes host\.yaml already",
        ),
        ({"HARD_REFRESH_INTERVAL": "hourly"}, "HARD_REFRESH_INTERVAL: .*'hourly'"),
        ({"SILO_RUN_TIMEOUT_SECONDS": "0"}, "SILO_RUN_TIMEOUT_SECONDS.*timeout_seconds: "),
    ],
)
def test_a_wrong_variable_is_named_and_nothing_starts(change: dict[str, str], words: str) -> None:
    """Else the container runs for hours with a setting that it did not understand."""
    with pytest.raises(BadOrganismFile, match=f"(?s){words}.*Nothing was started"):
        organism_from_environment(URL | change)

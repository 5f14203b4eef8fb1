"""Real Loculus data: the Ebola dump to an index that answers, bodies damaged by others, production's lineage
files, and the pass over 20,000 genomes within its memory.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import urllib3
from backports import zstd

from ingest_platform.errors import Damaged, IngestError, SourceUnavailable
from ingest_platform.silo.backend import Backend
from ingest_platform.silo.database import read_database
from ingest_platform.silo.engines.rhydb import RhydbEngine
from ingest_platform.silo.inputs import lay_out
from ingest_platform.silo.lineage import LineageFile, definitions, names, unknown_values
from ingest_platform.silo.model import Organism, Timeouts
from ingest_platform.silo.released import Layout, Released, keep, kept, receive
from ingest_platform.silo.served import publish
from ingest_platform_tests.silo_world import Answer, Loculus, loculus

GENOMES = 20_000
# The bound, for half of this stream.
MOST_MEMORY_KB = 300_000
READ = """
import sys, rhydb
database = rhydb.Database(sys.argv[1])
print([database.query("default" + query).to_pylist() for query in sys.argv[2:]])
"""
RECEIVE = """
import sys, time
from pathlib import Path
from ingest_platform.silo.released import Layout, keep, kept, receive
body, folder = Path(sys.argv[1]), Path(sys.argv[2])
pieces = keep(kept(body), folder / "body.zst", name="ebola")
released = receive(pieces, folder / "records.zst", name="ebola", announced=sys.argv[3], layout=Layout())
# Not ru_maxrss, which begins with the memory of whoever started this process.
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(released.rows, peak, time.process_time())
"""


@pytest.fixture
def silo_data(real_data: Path) -> Path:
    return real_data / "silo"


def test_the_ebola_dump_becomes_an_index_that_answers(silo_data: Path, tmp_path: Path) -> None:
    """Else none of this works with what a Loculus really sends."""
    database = read_database(silo_data / "ebola" / "preprocessing_config.yaml")
    records, staging = tmp_path / "records.zst", tmp_path / "staging"
    staging.mkdir()

    body = kept(silo_data / "ebola" / "data.ndjson.zst")
    released = receive(body, records, name="ebola", announced="3552", layout=database.layout)
    inputs = lay_out(tmp_path / "in", database, records, released.rows, (), staging=staging)
    built = RhydbEngine(os.environ).build(inputs, staging, timeout_seconds=120)
    publish(built.index, tmp_path / "out")

    queries = [".group({}, {n := count()})", ".filter(country = 'Guinea').group({}, {n := count()})"]
    assert (released.rows, released.content_bytes) == (3552, 159_875_442)
    assert read(tmp_path / "out", *queries) == [[{"n": 3552}], [{"n": guinea(silo_data)}]]


def read(output: Path, *queries: str) -> list[list[dict[str, int]]]:
    """What another process reads from the newest index in a folder."""
    command = [sys.executable, "-c", READ, str(output), *queries]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows: list[list[dict[str, int]]] = json.loads(answer.splitlines()[-1].replace("'", '"'))
    return rows


def guinea(silo_data: Path) -> int:
    with zstd.open(silo_data / "ebola" / "data.ndjson.zst", "rt") as lines:
        return sum(json.loads(line)["metadata"]["country"] == "Guinea" for line in lines)


def test_what_silo_reads_is_what_the_backend_sent(silo_data: Path, tmp_path: Path) -> None:
    """Else a sequence, an insertion or a number of the index differs from the database's."""
    source = silo_data / "sars2-1000" / "sample.ndjson.zst"

    receive(
        kept(source), tmp_path / "records.zst", name="x", announced=None, layout=Layout("genbankAccession")
    )

    with zstd.open(source, "rt") as lines, zstd.open(tmp_path / "records.zst", "rt") as flat:
        for sent, written in islice(zip(lines, flat, strict=True), 0, None, 50):
            assert json.loads(written) == expected(json.loads(sent))


def expected(sent: dict[str, dict[str, object]]) -> dict[str, object]:
    """SILO's shape, written down once more from the specification."""
    flat = dict(sent["metadata"])
    flat |= {f"unaligned_{name}": letters for name, letters in sent["unalignedNucleotideSequences"].items()}
    for kind, inserted in (
        ("alignedNucleotideSequences", "nucleotideInsertions"),
        ("alignedAminoAcidSequences", "aminoAcidInsertions"),
    ):
        for name, letters in sent[kind].items():
            insertions = sent[inserted].get(name) or []
            flat[name] = None if letters is None else {"sequence": letters, "insertions": insertions}
    return flat


def test_twenty_thousand_genomes_pass_in_bounded_memory(silo_data: Path, tmp_path: Path) -> None:
    """Else the largest organisms need a machine of their own, or the pass takes longer than the engine."""
    body = tmp_path / "20000.zst"
    with zstd.open(body, "wb") as packed:
        packed.writelines(islice(repeated(silo_data), GENOMES))

    done = subprocess.run(
        [sys.executable, "-c", RECEIVE, str(body), str(tmp_path), str(GENOMES)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip

    rows, memory_kb, cpu_seconds = map(float, done.stdout.split())
    assert rows == GENOMES
    assert memory_kb < MOST_MEMORY_KB
    # 2.4 s for these 900 MB; the engine takes three times as long, so the pass must not grow to it.
    assert cpu_seconds < 10


def repeated(silo_data: Path) -> Iterator[bytes]:
    """The real records again and again, each time under new accessions."""
    with zstd.open(silo_data / "ebola" / "data.ndjson.zst", "rb") as file:
        lines = file.read().splitlines(keepends=True)
    turn = 0
    while True:
        for line in lines:
            yield line.replace(b'"accessionVersion":"', b'"accessionVersion":"R%d_' % turn)
        turn += 1


@dataclass(frozen=True)
class Damage:
    """One real damaged body with its framing and the outcome that is proposed for it."""

    answer: Answer
    expect: str


def damages(silo_data: Path) -> dict[str, Damage]:
    folder = silo_data / "nasty"
    found = {}
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        body = (folder / case["file"]).read_bytes()
        answer = Answer(body, case["status"], case["headers"], case["framing"], case["send_bytes"])
        found[case["name"]] = Damage(answer, case["expect"])
    return found


@pytest.mark.silo_case(5)
@pytest.mark.silo_case(25)
def test_real_damaged_bodies_have_the_outcome_that_is_proposed(silo_data: Path, tmp_path: Path) -> None:
    """Else our own damaged bodies are only those that we thought of."""
    with loculus() as server:
        outcomes = {
            name: (each.expect, outcome(server, each, tmp_path)) for name, each in damages(silo_data).items()
        }

    assert len(outcomes) >= 19
    for name, (expect, said) in outcomes.items():
        assert fits(expect, said), f"{name}: {expect}, but {said}"
    assert content(outcomes["ok_other_level"][1]) == content(outcomes["ok"][1])


def outcome(server: Loculus, damage: Damage, folder: Path) -> Released | IngestError:
    server.always(damage.answer)
    timeouts = Timeouts(connect_seconds=5, read_seconds=5, total_seconds=20)
    backend = Backend("organism", server.url, urllib3.PoolManager(), timeouts)
    try:
        with backend.released(None) as body:
            assert body is not None
            pieces = keep(body.pieces, folder / "body.zst", name="organism")
            return receive(
                pieces, folder / "records.zst", name="x", announced=body.head.announced, layout=Layout()
            )
    except (Damaged, SourceUnavailable) as error:
        return error


def fits(expect: str, said: Released | IngestError) -> bool:
    if expect in ("reject", "reject_keep_previous", "reject_or_decode", "warn_no_data"):
        return isinstance(said, IngestError)
    if isinstance(said, IngestError):
        return False
    match expect:
        case "import_with_warning":
            return len(said.warnings) == 1
        case "import_empty":
            return said.rows == 0
        case "import_empty_lineage":
            return set(said.pipeline_versions) == {None}
        case "reject_if_lineage_configured":
            return len(said.pipeline_versions) > 1
    return said.rows > 0 and not said.warnings


def content(said: Released | IngestError) -> str:
    assert isinstance(said, Released)
    return said.content_hash


@pytest.mark.silo_case(24)
def test_the_pipeline_version_decides_between_productions_two_files(silo_data: Path) -> None:
    """Else an index of version 2 is built with the lineages of version 1."""
    files = sorted((silo_data / "lineage-definitions" / "rsv-a").glob("*/lineages.yaml"))
    with loculus() as server:
        by_path = {f"/organism/{n}.yaml": file.read_bytes() for n, file in enumerate(files, 1)}
        server.rule = lambda request: Answer(by_path[request.path], framing="length")
        organism = Organism.model_validate(
            {
                "id": "rsv-a",
                "backend_url": server.url,
                "lineage_definitions": {"rsv": {n: f"{server.url}/{n}.yaml" for n in (1, 2)}},
                "preprocessing_config": "unused",
                "output": "unused",
            }
        )
        chosen = [definitions(organism, {version: 19_662}, urllib3.PoolManager())[0] for version in (1, 2)]

    assert [len(file.names) for file in chosen] == [36, 45]
    assert [file.content for file in chosen] == [file.read_bytes() for file in files]


def test_each_of_productions_lineage_files_is_sound(silo_data: Path) -> None:
    """Else a check that is stricter than SILO stops every import."""
    files = [
        *silo_data.glob("lineage-definitions/**/lineages.yaml"),
        *silo_data.glob("loculus/lineage*.yaml"),
        *silo_data.glob("silo-testBaseData/**/lineage_definition*.yaml"),
    ]

    known = {file: names(file.read_bytes(), what=str(file)) for file in files}

    assert len(known) >= 7
    assert all(known.values())


def test_a_real_record_of_todays_wire_format_is_understood(silo_data: Path, tmp_path: Path) -> None:
    """Else null segments, insertions or the pipeline version of a current backend stop the import."""
    text = (silo_data / "loculus" / "get-released-data.cchf.ndjson").read_bytes()
    file = next((silo_data / "lineage-definitions" / "cchf").rglob("lineages.yaml")).read_bytes()
    layout = Layout(lineage_fields=("lineage",))

    released = receive([zstd.compress(text)], tmp_path / "r", name="cchf", announced="4", layout=layout)

    known = LineageFile("cchf", 1, "url", file, names(file, what="cchf"))
    assert released.rows == 4
    assert None not in released.pipeline_versions
    assert sum(released.lineages["lineage"].values()) > 0
    assert unknown_values(known, released.lineages["lineage"]) == {}

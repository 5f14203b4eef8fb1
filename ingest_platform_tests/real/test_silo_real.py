"""Real Loculus data: the Ebola dump to an index that answers, bodies damaged by others, production's lineage
files, and the pass over 20,000 genomes within its memory.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from backports import zstd

from ingest_platform.silo.engines.rhydb import RhydbEngine
from ingest_platform.silo.lineage import LineageFile, names, unknown_values
from ingest_platform.silo.released import Layout, kept, receive
from ingest_platform_tests.silo_bench import count
from ingest_platform_tests.silo_outcome import baseline_of, require_outcome
from ingest_platform_tests.silo_station import new_station
from ingest_platform_tests.silo_world import Answer, Case, answer, loculus, record, write_database

GENOMES = 20_000
# The bound, for half of this stream.
MOST_MEMORY_KB = 300_000
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


@pytest.mark.silo_case(1)
def test_the_ebola_dump_is_imported_and_answers(silo_data: Path, tmp_path: Path) -> None:
    """Else none of this works with what a Loculus really sends."""
    ebola = silo_data / "ebola"
    headers = {"ETag": '"e1"', "Content-Encoding": "zstd", "x-total-records": "3552"}
    with new_station(tmp_path, preprocessing_config=ebola / "preprocessing_config.yaml") as place:
        engine = RhydbEngine(os.environ)
        place.rails = replace(place.rails, choose_engine=lambda _organism, _environ: engine)
        place.server.release(Answer((ebola / "data.ndjson.zst").read_bytes(), headers=headers))

        report = place.round()

        assert (report.what, report.error, report.warnings) == ("imported", None, [])
        assert (place.index.rows, place.index.content_bytes) == (3552, 159_875_442)
        assert count(place.organism.output) == 3552
        assert count(place.organism.output, ".filter(country = 'Guinea')") == guinea(silo_data)
        assert place.poll().what == "unchanged"


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


@pytest.mark.silo_case(5)
@pytest.mark.silo_case(25)
def test_real_damaged_bodies_have_the_outcome_that_is_proposed(silo_data: Path, tmp_path: Path) -> None:
    """Else our own damaged bodies are only those that we thought of."""
    bodies = real_cases(silo_data / "nasty")

    assert len(bodies) >= 19
    for name, each in bodies.items():
        require_outcome(each, bodies[baseline_of(name, each.expect)].answer, tmp_path / name)


def real_cases(folder: Path) -> dict[str, Case]:
    found = {}
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        body = (folder / case["file"]).read_bytes()
        answer = Answer(body, case["status"], case["headers"], case["framing"], case["send_bytes"])
        found[case["name"]] = Case(case["name"], answer, case["expect"])
    return found


@pytest.mark.silo_case(24)
def test_data_and_productions_lineage_file_change_versions_together(silo_data: Path, tmp_path: Path) -> None:
    """Else an index of version 2 is built with the lineages of version 1."""
    old, new = sorted((silo_data / "lineage-definitions" / "rsv-a").glob("*/lineages.yaml"))
    files = {"1.yaml": old.read_bytes(), "2.yaml": new.read_bytes()}
    only_new = sorted(names(files["2.yaml"], what="2") - names(files["1.yaml"], what="1"))
    with new_station(tmp_path) as place, loculus() as host:
        found = dict(files)
        host.rule = lambda request: lineage_answer(found.get(request.path.rpartition("/")[2]))
        config = write_database(tmp_path / "config", lineage_system="rsv")
        urls = {"rsv": {n: f"{host.url}/{n}.yaml" for n in (1, 2)}}
        place.configure(lineage_definitions=urls, preprocessing_config=config)
        place.server.release(rsv(1, "A", etag='"v1"'))
        assert place.round().what == "imported"

        place.server.release(rsv(2, *only_new, etag='"v2"'))
        del found["2.yaml"]
        assert place.round().what == "failed"
        assert (place.index.etag, len(place.engine.builds)) == ('"v1"', 1)
        found["2.yaml"] = files["2.yaml"]
        place.advance(minutes=1)
        assert place.ingest().what == "imported"

    built = [(versions(build["data.ndjson.zst"]), build["rsv.yaml"]) for build in place.engine.builds]
    assert built == [({1}, files["1.yaml"]), ({2}, files["2.yaml"])]
    assert [len(names(file, what="rsv")) for _, file in built] == [36, 45]


def lineage_answer(file: bytes | None) -> Answer:
    return Answer(b"", 404, framing="length") if file is None else Answer(file, framing="length")


def rsv(version: int, *lineages: str, etag: str) -> Answer:
    """A release of this pipeline version, a record a lineage."""
    records = [record(n, pipeline_version=version, lineage=each) for n, each in enumerate(lineages)]
    return answer(records, etag)


def versions(packed: bytes) -> set[int]:
    return {json.loads(line)["pipelineVersion"] for line in zstd.decompress(packed).splitlines()}


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

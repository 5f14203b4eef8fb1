"""Whole imports with real engines, one of them in another container: what SILO's API then answers."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from backports import zstd

from ingest_platform.silo.engines.contract import Engine, EngineRefused
from ingest_platform.silo.engines.rhydb import RhydbEngine
from ingest_platform.silo.engines.sentinel import SentinelEngine
from ingest_platform.silo.served import indexes
from ingest_platform_tests.silo_bench import count, runner, wait_until
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import TWELVE, Answer, Json, answer, loculus, record, write_database

# A silo binary over the rhydb wheel.
SILO = f"""#!{sys.executable} -P
import os, sys, tempfile, yaml
from pathlib import Path
from backports import zstd
from ingest_platform.silo.database import read_database
from ingest_platform.silo.engines.contract import EngineRefused
from ingest_platform.silo.engines.rhydb import RhydbEngine
from ingest_platform.silo.inputs import Inputs
from ingest_platform.silo.served import publish

config = Path(os.environ["SILO_PREPROCESSING_CONFIG"])
said, database = yaml.safe_load(config.read_text()), read_database(config)
folder, records = Path(said["inputDirectory"]), Path(said["inputDirectory"], database.records_file)
with zstd.open(records) as lines, tempfile.TemporaryDirectory() as staging:
    inputs = Inputs(folder, records, sum(1 for _ in lines), (), config, database)
    try:
        built = RhydbEngine(os.environ).build(inputs, Path(staging), timeout_seconds=60)
    except EngineRefused as refused:
        sys.exit(str(refused))
    print(built.log_tail)
    publish(built.index, Path(said["outputDirectory"]))
"""


# One that indexes nothing: its index is a copy of what it was given.
COPIES = """#!/bin/sh
folder() { sed -n "s/^$1Directory: //p" "$SILO_PREPROCESSING_CONFIG"; }
number=$(date +%s)
while [ -e "$(folder output)$number" ]; do number=$((number + 1)); done
cp -r "$(folder input)" "$(folder output)$number"
printf 'timestamp: %s\\nserializationVersion: 1\\n' $number >"$(folder output)$number/data_version.silo"
"""


@dataclass
class Yard:
    """An organism, and a container with SILO that shares two folders with its importer."""

    place: Station

    @property
    def exchange(self) -> Path:
        path = self.place.root / "exchange"
        path.mkdir(exist_ok=True)
        return path

    @property
    def output(self) -> Path:
        return self.place.organism.output

    def use(self, engine: Engine) -> None:
        self.place.rails = replace(self.place.rails, choose_engine=lambda _organism, _environ: engine)

    def sentinel(self, pause: Callable[[], None] = lambda: time.sleep(0.02)) -> SentinelEngine:
        return SentinelEngine(self.exchange, self.output, sleep=lambda _: pause())

    @contextmanager
    def container(self, program: str) -> Iterator[None]:
        """It is up, and has this silo."""
        silo = self.place.root / "silo"
        silo.write_text(program)
        silo.chmod(0o755)
        config = write_database(self.place.root / "container")
        self.output.mkdir(exist_ok=True)
        said = {"inputDirectory": f"{self.exchange}/", "outputDirectory": f"{self.output}/"}
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | said))
        with runner(self.exchange, silo, config):
            yield

    def release(self, *records: Json, etag: str) -> None:
        self.place.server.release(answer(records, etag))

    def served(self) -> Path:
        """What the API shows, which is what the ledger names."""
        found = self.place.served
        assert found is not None
        assert found.timestamp == self.place.index.index_timestamp
        return found.path

    def copied(self) -> list[Json]:
        """The records of the served index, where the runner copies."""
        with zstd.open(self.served() / "data.ndjson.zst") as lines:
            return [json.loads(line) for line in lines]


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with new_station(tmp_path) as place:
        yield Yard(place)


@pytest.mark.silo_case(1)
@pytest.mark.silo_case(2)
@pytest.mark.silo_case(13)
@pytest.mark.parametrize("kind", ["rhydb", "sentinel"])
def test_each_engine_imports_changes_and_survives_a_release_that_it_refuses(kind: str, yard: Yard) -> None:
    """Else an engine that builds alone loses an index, or shows another release, in an import."""
    place = yard.place
    with ExitStack() as stack:
        if kind == "rhydb":
            yard.use(RhydbEngine(os.environ))
        else:
            yard.use(yard.sentinel())
            stack.enter_context(yard.container(SILO))

        yard.release(*TWELVE, etag='"e1"')
        assert place.round().what == "imported"
        assert (count(yard.output), place.index.rows) == (12, 12)

        before, first = place.output_tree(), yard.served()
        yard.release(*TWELVE, etag='"same"')
        assert place.round().what == "unchanged"
        yard.release(*TWELVE, with_a_bad_letter(record(12)), etag='"bad"')
        refused = place.round()
        assert (refused.what, type(refused.error)) == ("failed", EngineRefused)
        assert (place.output_tree(), yard.served(), place.index.etag) == (before, first, '"same"')

        yard.release(*TWELVE, record(12, lineage="A.2"), etag='"e2"')
        assert place.round().what == "imported"
        assert yard.served() != first
        assert (count(yard.output), place.index.rows) == (13, 13)
        assert count(yard.output, ".filter(lineage = 'A.2')") == 1


def with_a_bad_letter(record: Json) -> Json:
    return {**record, "alignedNucleotideSequences": {"main": "!" * 100}}


@pytest.mark.silo_case(18)
def test_what_a_dead_importer_asked_for_decides_nothing(yard: Yard) -> None:
    """Else its run_silo builds from half-placed inputs, or its silo_done passes for ours."""
    yard.use(yard.sentinel())
    (yard.exchange / "run_silo").write_text("run_id=old\ntimeout_seconds=60\n")
    (yard.exchange / "silo_done").write_text("run_id=old\nstatus=success\nmessage=exit code 0\n")
    yard.release(*TWELVE, etag='"e1"')

    with yard.container(COPIES):
        report = yard.place.round()

    assert report.what == "imported", report.error
    assert len(yard.copied()) == 12
    assert list(yard.exchange.iterdir()) == []


@pytest.mark.silo_case(18)
def test_an_index_that_a_dead_importer_ordered_gives_way_to_the_next_import(yard: Yard) -> None:
    """Else a release that nobody checked to its end is served for good."""
    yard.use(yard.sentinel())
    yard.release(*TWELVE, etag='"e1"')
    (yard.exchange / "data.ndjson.zst").write_bytes(zstd.compress(b'{"nobody": "knows"}\n'))
    (yard.exchange / "run_silo").write_text("run_id=old\ntimeout_seconds=60\n")

    with yard.container(COPIES):
        wait_until(lambda: (yard.exchange / "silo_done").exists())
        assert len(indexes(yard.output)) == 1
        report = yard.place.round()

    assert report.what == "imported", report.error
    assert len(yard.copied()) == 12


@pytest.mark.silo_case(18)
def test_foreign_and_half_written_answers_are_waited_on_in_an_import(yard: Yard) -> None:
    """Else another run's success, or half a word, publishes whatever lies in the folder."""
    waited: list[float] = []
    with ExitStack() as stack:

        def pause() -> None:
            asked = (yard.exchange / "run_silo").read_text().splitlines()[0]
            waited.append(time.monotonic())
            match len(waited):
                case 1:
                    (yard.exchange / "silo_done").write_text("run_id=foreign\nstatus=success\n")
                case 2:
                    (yard.exchange / "silo_done").write_text(f"{asked}\n")
                case 3:
                    (yard.exchange / "silo_done").write_text(f"{asked}\nstatus=succ")
                case 4:
                    stack.enter_context(yard.container(COPIES))
            time.sleep(0.02)

        yard.use(yard.sentinel(pause))
        yard.release(*TWELVE, etag='"e1"')
        report = yard.place.round()

    assert report.what == "imported", report.error
    assert len(waited) > 4
    assert len(yard.copied()) == 12


@pytest.mark.silo_case(24)
def test_a_runner_never_sees_records_beside_another_versions_lineage_file(yard: Yard) -> None:
    """Else v2 genomes are searched with v1 lineages for as long as that index is served."""
    place = yard.place
    yard.use(yard.sentinel())
    files = {n: b"A: {}\nA.1: {parents: [A]}\n# version %d\n" % n for n in (1, 2)}
    with loculus() as host, yard.container(COPIES):
        host.rule = lambda request: Answer(files[int(request.path[-1])], framing="length")
        urls = {"pango": {n: f"{host.url}/{n}" for n in files}}
        place.configure(lineage_definitions=urls)
        for version in (1, 2):
            records = [record(n, pipeline_version=version) for n in range(3)]
            yard.release(*records, etag=f'"v{version}"')

            assert place.round().what == "imported"

            assert {each["pipelineVersion"] for each in yard.copied()} == {version}
            assert (yard.served() / "pango.yaml").read_bytes() == files[version]

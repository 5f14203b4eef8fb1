"""The engines: one contract over the rhydb wheel, a binary, and a runner in another container; and each way
in which a build may end badly.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from ingest_platform.errors import Damaged
from ingest_platform.silo.database import read_database
from ingest_platform.silo.engines.choice import engine_of
from ingest_platform.silo.engines.contract import (
    Engine,
    EngineError,
    EngineFailed,
    EngineRefused,
    EngineTimedOut,
)
from ingest_platform.silo.engines.rhydb import CHILD, RhydbEngine
from ingest_platform.silo.inputs import Inputs
from ingest_platform.silo.model import Organism
from ingest_platform.silo.served import index_at, publish
from ingest_platform.silo.stopping import Stopped
from ingest_platform_tests.silo_bench import BUILDS, DIES_MID_SAVE, HANGS, Bench, alive, count, wait_until

SECONDS = 30.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_rhydb_engine_builds_an_index_that_answers(bench: Bench) -> None:
    """Else the importer publishes folders that no SILO can read."""
    built = RhydbEngine(os.environ).build(bench.inputs(3), bench.staging, timeout_seconds=SECONDS)

    served = publish(built.index, bench.folder / "out")

    assert count(bench.folder / "out", ".filter(lineage = 'A.1')") == 3
    assert index_at(served.path) == served
    assert "Saving database" in built.log_tail


@pytest.mark.silo_case(9)
def test_no_record_at_all_is_an_index_too(bench: Bench) -> None:
    """Else a new organism has no page until its first genome."""
    built = RhydbEngine(os.environ).build(bench.inputs(0), bench.staging, timeout_seconds=SECONDS)

    publish(built.index, bench.folder / "out")

    assert count(bench.folder / "out") == 0


def test_rows_that_the_engine_did_not_take_are_a_failure(bench: Bench) -> None:
    """Else a reader that dies between checked records and engine gives a shorter index."""
    with pytest.raises(EngineFailed, match="expected 4 rows, the engine has 3"):
        RhydbEngine(os.environ).build(bench.inputs(3, claimed=4), bench.staging, timeout_seconds=SECONDS)


@pytest.mark.silo_case(13)
def test_records_that_the_engine_does_not_take_are_told_from_a_broken_engine(bench: Bench) -> None:
    """Else a poisoned release is tried for ever, or an out-of-memory engine quarantines a sound one."""
    inputs = bench.inputs(1)
    config = bench.folder / "config" / "reference_genomes.json"
    config.write_text(config.read_text().replace('"main"', '"other"'))
    other = Inputs(
        inputs.folder,
        inputs.records,
        1,
        (),
        inputs.config,
        read_database(bench.folder / "config/preprocessing_config.yaml"),
    )

    with pytest.raises(EngineRefused, match="other") as refused:
        RhydbEngine(os.environ).build(other, bench.staging, timeout_seconds=SECONDS)

    assert isinstance(refused.value, Damaged)
    assert "not contained in the object" in refused.value.log_tail


@pytest.mark.silo_case(13)
@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        ("echo no such column; exit 1", EngineRefused, "exit 1"),
        ("echo disk full; exit 2", EngineFailed, "exit 2"),
        ("echo oops; kill -SEGV $$", EngineFailed, "signal 11, Segmentation fault"),
        ("echo nothing built; exit 0", EngineFailed, "0 finished indexes"),
    ],
)
def test_each_way_to_fail_is_named_with_the_logs_end_and_a_later_try_succeeds(
    program: str, error: type[EngineError], words: str, bench: Bench
) -> None:
    """Else the operator sees `failed`, and a retry that the backend did not change never comes."""
    inputs = bench.inputs()

    with pytest.raises(error, match=words) as failed:
        bench.cli(f"#!/bin/sh\n{program}\n").build(inputs, bench.staging, timeout_seconds=SECONDS)
    built = bench.cli(BUILDS).build(inputs, bench.staging, timeout_seconds=SECONDS)

    assert program.split(";")[0].removeprefix("echo ") in failed.value.log_tail
    assert isinstance(failed.value, Damaged) == (error is EngineRefused)
    assert built.index.timestamp == 1795269573


@pytest.mark.silo_case(15)
def test_an_engine_that_dies_while_it_saves_leaves_no_index(bench: Bench) -> None:
    """Else the API loads half a database, or the last good one is removed for it."""
    with pytest.raises(EngineFailed, match="Segmentation fault"):
        bench.cli(DIES_MID_SAVE).build(bench.inputs(), bench.staging, timeout_seconds=SECONDS)

    assert index_at(bench.staging / "1795269573") is None


@pytest.mark.silo_case(14)
def test_an_engine_that_hangs_is_killed_with_all_that_it_started(bench: Bench) -> None:
    """Else it wakes up later and writes into the next build, or the memory is taken twice."""
    inputs = bench.inputs()

    with pytest.raises(EngineTimedOut, match=r"not done after 0\.5 s, killed") as hung:
        bench.cli(HANGS).build(inputs, bench.staging, timeout_seconds=0.5)

    assert "begun" in hung.value.log_tail
    assert not alive(int((inputs.folder / "grandchild").read_text()))


@pytest.mark.silo_case(17)
def test_an_importer_that_is_told_to_end_ends_its_engine_first(bench: Bench) -> None:
    """Else a container's grace ends in kill -9, and an attempt of a sound release is used."""
    inputs, stop = bench.inputs(), threading.Event()
    grandchild = inputs.folder / "grandchild"

    def when_it_runs() -> None:
        wait_until(lambda: grandchild.exists() and grandchild.read_text() != "")
        stop.set()

    thread = threading.Thread(target=when_it_runs)
    thread.start()
    with pytest.raises(Stopped, match=r"killed: told to end.*published index stays"):
        bench.cli(HANGS).build(inputs, bench.staging, timeout_seconds=SECONDS, stop=stop)
    thread.join()

    assert not alive(int(grandchild.read_text()))
    with pytest.raises(Stopped):
        RhydbEngine(os.environ).build(inputs, bench.staging, timeout_seconds=SECONDS, stop=stop)


def test_the_engine_sees_nothing_of_our_environment(bench: Bench) -> None:
    """Else SILO ends at once: it refuses unknown variables that begin with its name."""
    built = bench.cli(BUILDS).build(bench.inputs(), bench.staging, timeout_seconds=SECONDS)

    assert "SILO_RUN_TIMEOUT_SECONDS" not in built.log_tail
    assert "SILO_PREPROCESSING_CONFIG=" in built.log_tail


@pytest.mark.silo_case(17)
@pytest.mark.parametrize("kind", ["rhydb", "cli"])
def test_a_killed_importer_takes_its_build_along(kind: str, bench: Bench) -> None:
    """Else its successor builds beside it, and two engines need the memory of one."""
    command = endless_rhydb(bench) if kind == "rhydb" else [str(bench.program(HANGS))]
    importer = subprocess.Popen([sys.executable, "-c", IMPORTER, str(bench.folder), *command])
    # The watcher, the engine, and what the engine has started: it reads from it, or waits for it.
    wait_until(lambda: len(started_by(importer)) == 3)
    group = started_by(importer)

    importer.kill()
    importer.wait()

    wait_until(lambda: not any(map(alive, group)))


def endless_rhydb(bench: Bench) -> list[str]:
    """The child with records that never come."""
    os.mkfifo(bench.folder / "records")
    request = {
        "records": str(bench.folder / "records"),
        "references": [],
        "create": CREATE,
        "table": "default",
    }
    (bench.folder / "request.json").write_text(json.dumps(request))
    return [sys.executable, "-P", "-m", CHILD, str(bench.folder / "request.json")]


def started_by(importer: subprocess.Popen[bytes]) -> list[int]:
    return [process.pid for process in psutil.Process(importer.pid).children(recursive=True)]


CREATE = "createTable(default, {k := string}, primaryKey := k)"
IMPORTER = """
import sys
from pathlib import Path
from ingest_platform.silo.engines.process import run
folder = Path(sys.argv[1])
run(sys.argv[2:], environment={}, folder=folder, log=folder / "log", timeout_seconds=60)
"""


@pytest.mark.parametrize("kind", ["rhydb", "cli", "sentinel"])
def test_the_settings_choose_the_engine(kind: str, bench: Bench) -> None:
    """Else an organism is built by an engine that its operator did not name."""
    extra = {"cli": {"binary": bench.program(BUILDS)}, "sentinel": {"exchange": bench.folder}}.get(kind, {})
    organism = Organism.model_validate(
        {
            "id": "x",
            "backend_url": "http://host/x",
            "preprocessing_config": bench.folder / "p.yaml",
            "output": bench.folder,
            "engine": {"kind": kind, **extra},
        }
    )

    engine: Engine = engine_of(organism, os.environ)

    assert engine.identity.startswith({"cli": "silo "}.get(kind, kind))

"""An engine in another container: asked and answered by files, with the watcher that is shipped for it."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ingest_platform.errors import StoreUnavailable
from ingest_platform.silo.engines.contract import (
    EngineError,
    EngineFailed,
    EngineRefused,
    EngineTimedOut,
    tail,
)
from ingest_platform.silo.engines.sentinel import VERSION, SentinelEngine
from ingest_platform.silo.stopping import Stopped
from ingest_platform_tests.silo_bench import BUILDS, DIES_MID_SAVE, HANGS, Bench, alive, runner, wait_until

SECONDS = 30.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def sentinel(bench: Bench) -> SentinelEngine:
    (bench.folder / "exchange").mkdir(exist_ok=True)
    return SentinelEngine(bench.folder / "exchange", bench.staging, sleep=lambda _: time.sleep(0.02))


@pytest.mark.silo_case(18)
def test_a_runner_in_another_container_builds_when_it_is_asked(bench: Bench) -> None:
    """Else who keeps SILO in its own image cannot use this importer."""
    inputs, engine = bench.inputs(), sentinel(bench)

    with runner(engine.exchange, bench.program(BUILDS), inputs.config):
        built = engine.build(inputs, bench.folder / "unused", timeout_seconds=SECONDS)

    assert built.index.path.parent == bench.staging
    assert "built" in built.log_tail
    assert "SILO_RUNNER_SLEEP_SECONDS" not in built.log_tail
    assert [path.name for path in engine.exchange.iterdir()] == [VERSION]


@pytest.mark.silo_case(18)
@pytest.mark.parametrize(
    "stale",
    ["run_id=old\nstatus=success\nmessage=exit code 0\n", "run_id=mine\n", "run_id=mine\nstatus=suc", ""],
)
def test_a_foreign_or_half_written_report_is_waited_on(stale: str, bench: Bench) -> None:
    """Else the success of another run, or half a word, decides over this one."""
    inputs = bench.inputs()
    exchange = bench.folder / "exchange"
    exchange.mkdir()
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            (exchange / "silo_done").write_text(stale)
        if len(waited) == 3:
            subprocess.run(
                [bench.program(BUILDS)],
                env={"CONFIG": str(inputs.config), "PATH": os.environ["PATH"]},
                check=True,
            )
            (exchange / "silo_done").write_text("run_id=mine\nstatus=success\nmessage=ok\n")

    engine = SentinelEngine(exchange, bench.staging, sleep=pause, new_id=lambda: "mine")
    built = engine.build(inputs, bench.staging, timeout_seconds=SECONDS)

    assert len(waited) == 3
    assert built.index.timestamp == 1795269573


@pytest.mark.silo_case(18)
def test_what_an_older_run_left_is_cleared_before_anything_is_asked(bench: Bench) -> None:
    """Else a stale run_silo builds from half-placed inputs, or a stale silo_done passes for an answer."""
    engine, inputs = sentinel(bench), bench.inputs()
    (engine.exchange / "run_silo").write_text("run_id=old\n")
    (engine.exchange / "silo_done").write_text("run_id=old\nstatus=success\n")
    ticks = iter(range(0, 1000, 10))
    late = SentinelEngine(engine.exchange, bench.staging, lambda: next(ticks), lambda _: None)

    with pytest.raises(EngineTimedOut, match="has not reported"):
        late.build(inputs, bench.staging, timeout_seconds=30)

    assert list(engine.exchange.iterdir()) == []


@pytest.mark.silo_case(14)
@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("#!/bin/sh\necho bad column\nexit 1\n", EngineRefused),
        ("#!/bin/sh\nexit 2\n", EngineFailed),
        (DIES_MID_SAVE, EngineFailed),
        (HANGS, EngineTimedOut),
    ],
)
def test_a_runners_failure_is_told_apart_and_leaves_nothing_half_done(
    program: str, error: type[EngineError], bench: Bench
) -> None:
    """Else every failure of the other container is a time-out of an hour."""
    engine, inputs = sentinel(bench), bench.inputs()

    with runner(engine.exchange, bench.program(program), inputs.config), pytest.raises(error):
        engine.build(inputs, bench.staging, timeout_seconds=1)

    assert list(bench.staging.iterdir()) == []
    if error is EngineTimedOut:
        wait_until(lambda: not alive(int((bench.folder / "grandchild").read_text())))


@pytest.mark.silo_case(28)
def test_an_index_that_the_api_would_pass_over_is_a_failure_and_goes(bench: Bench) -> None:
    """Else a runner whose clock went back shows old genomes, and everything says that they are new."""
    newer = bench.staging / "1795269574"
    newer.mkdir()
    (newer / "data_version.silo").write_text("timestamp: 1795269574\nserializationVersion: 1\n")
    engine, inputs = sentinel(bench), bench.inputs()

    with (
        runner(engine.exchange, bench.program(BUILDS), inputs.config),
        pytest.raises(EngineFailed, match=r"1795269573: SILO's API would go on with 1795269574.*clock"),
    ):
        engine.build(inputs, bench.staging, timeout_seconds=SECONDS)

    assert list(bench.staging.iterdir()) == [newer]


def test_a_finished_index_of_a_failed_run_goes_too(bench: Bench) -> None:
    """Else the API shows an index that the ledger never took."""
    engine, inputs = sentinel(bench), bench.inputs()
    program = bench.program(f"{BUILDS}exit 2\n")

    with runner(engine.exchange, program, inputs.config), pytest.raises(EngineFailed, match="exit code 2"):
        engine.build(inputs, bench.staging, timeout_seconds=SECONDS)

    assert list(bench.staging.iterdir()) == []


def test_a_watcher_that_is_killed_starts_the_same_run_again(bench: Bench) -> None:
    """Else the importer waits an hour for a runner that has forgotten what it was asked."""
    engine, inputs = sentinel(bench), bench.inputs()
    hangs, answers = bench.program(HANGS), []

    def build() -> None:
        answers.append(engine.build(inputs, bench.staging, timeout_seconds=SECONDS))

    thread = threading.Thread(target=build)
    with runner(engine.exchange, hangs, inputs.config):
        thread.start()
        wait_until(lambda: (engine.exchange / "silo.log").exists())
    with runner(engine.exchange, bench.program(BUILDS), inputs.config):
        thread.join(SECONDS)

    assert len(answers) == 1


def test_another_configuration_or_silo_is_another_engine_and_other_data_are_not(bench: Bench) -> None:
    """Else a column that was added, or an index that a new SILO cannot read, waits for the next genome."""
    engine = sentinel(bench)
    nothing = engine.identity
    (engine.exchange / "data.ndjson.zst").write_bytes(b"records")
    (engine.exchange / "lineages.yaml").write_text("A: {}")
    (engine.exchange / "run_silo").write_text("run_id=1")
    with_data = engine.identity

    told = [with_data]
    for name in ("database_config.yaml", "reference_genomes.json", "preprocessing_config.yaml", VERSION):
        for content in ("one\n", "other\n"):
            (engine.exchange / name).write_text(content)
            told.append(engine.identity)

    assert nothing == with_data == "sentinel"
    assert len(set(told)) == len(told) == 9
    assert told[-1].startswith("sentinel other config ")


def test_a_folder_that_cannot_be_read_is_no_other_engine(bench: Bench) -> None:
    """Else a disk that is away for a moment builds everything anew."""
    engine = sentinel(bench)
    config = engine.exchange / "database_config.yaml"
    config.symlink_to(config)

    with pytest.raises(StoreUnavailable, match="database_config"):
        _ = engine.identity


def test_the_watcher_says_which_silo_it_has(bench: Bench) -> None:
    """Else an upgrade of SILO goes on serving the old one's index; or a SILO that is gone is named."""
    engine, config = sentinel(bench), bench.inputs().config
    version = engine.exchange / VERSION

    with runner(engine.exchange, bench.program(BUILDS), config):
        wait_until(version.exists)
    assert engine.identity == "sentinel silo 0.9.1"
    with runner(engine.exchange, bench.program("#!/bin/sh\nexit 1\n"), config):
        wait_until(lambda: not version.exists())


def test_a_report_that_does_not_fit_on_the_disk_is_written_when_there_is_room(bench: Bench) -> None:
    """Else an empty report takes its place, nobody runs again, and the importer waits for an hour."""
    engine, inputs, built = sentinel(bench), bench.inputs(), []
    half = engine.exchange / "silo_done.tmp"
    half.symlink_to("/dev/full")

    def build() -> None:
        built.append(engine.build(inputs, bench.staging, timeout_seconds=SECONDS))

    with runner(engine.exchange, bench.program(BUILDS), inputs.config):
        thread = threading.Thread(target=build)
        thread.start()
        wait_until(lambda: "built" in tail(engine.exchange / "silo.log"))
        time.sleep(0.3)  # several tries of the runner's
        assert (engine.exchange / "run_silo").exists()
        assert not (engine.exchange / "silo_done").exists()
        half.unlink()
        thread.join(SECONDS)

    assert len(built) == 1


@pytest.mark.silo_case(17)
def test_an_importer_that_is_told_to_end_takes_its_order_back(bench: Bench) -> None:
    """Else SILO goes on for an hour for nobody, and its index appears behind the successor's back."""
    engine, inputs, stop = sentinel(bench), bench.inputs(), threading.Event()
    grandchild = bench.folder / "grandchild"

    def when_it_runs() -> None:
        wait_until(lambda: grandchild.exists() and grandchild.read_text() != "")
        stop.set()

    with runner(engine.exchange, bench.program(HANGS), inputs.config):
        thread = threading.Thread(target=when_it_runs)
        thread.start()
        with pytest.raises(Stopped, match="told to end"):
            engine.build(inputs, bench.staging, timeout_seconds=SECONDS, stop=stop)
        thread.join()
        wait_until(lambda: not alive(int(grandchild.read_text())))

    assert not (engine.exchange / "run_silo").exists()

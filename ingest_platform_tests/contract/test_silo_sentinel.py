"""An engine in another container: asked and answered by files, with the watcher that is shipped for it."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ingest_platform.silo.engines.contract import (
    EngineError,
    EngineFailed,
    EngineRefused,
    EngineTimedOut,
)
from ingest_platform.silo.engines.sentinel import SentinelEngine
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
    assert list(engine.exchange.iterdir()) == []


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

"""Something to build from and with: a small release laid out for an engine, stand-ins for its binary, the
runner of a sentinel engine; and what an index answers.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ingest_platform.silo.database import read_database
from ingest_platform.silo.engines.cli import CliEngine
from ingest_platform.silo.inputs import Inputs, lay_out
from ingest_platform.silo.lineage import LineageFile
from ingest_platform.silo.released import receive
from ingest_platform_tests.silo_world import line, record, stream, write_database

# A stand-in for SILO's binary. It reads the configuration it is given, as the real one does.
BUILDS = """#!/bin/sh
[ "${1:-}" = --version ] && echo 'silo 0.9.1' && exit
output=$(sed -n 's/^outputDirectory: //p' "${SILO_PREPROCESSING_CONFIG:-$CONFIG}")
mkdir -p "$output/1795269573"
echo schema >"$output/1795269573/database_schema.silo"
printf 'timestamp: 1795269573\\nserializationVersion: 1\\n' >"$output/1795269573/data_version.silo"
env | sort
echo built
"""
DIES_MID_SAVE = BUILDS.replace("printf", "kill -SEGV $$; printf")
HANGS = """#!/bin/sh
[ "${1:-}" = --version ] && exit 1
echo begun
sleep 1000 &
echo $! >grandchild
wait
"""
WATCHER = Path(__file__).parents[1] / "deploy" / "silo" / "watcher.sh"
READ = """
import json, sys, rhydb
database = rhydb.Database(sys.argv[1])
print(json.dumps([database.query("default" + query).to_pylist() for query in sys.argv[2:]], default=str))
"""


@dataclass(frozen=True)
class Bench:
    """A folder to build in, with a small release."""

    folder: Path

    def inputs(
        self, rows: int = 3, *, lineages: tuple[LineageFile, ...] = (), claimed: int | None = None
    ) -> Inputs:
        database = read_database(write_database(self.folder / "config"))
        records = self.folder / "records.zst"
        released = receive(
            [stream([line(record(n)) for n in range(rows)])],
            records,
            name="organism",
            announced=None,
            layout=database.layout,
        )
        counted = released.rows if claimed is None else claimed
        return lay_out(self.folder / "inputs", database, records, counted, lineages, staging=self.staging)

    @property
    def staging(self) -> Path:
        path = self.folder / "staging"
        path.mkdir(exist_ok=True)
        return path

    def program(self, text: str) -> Path:
        path = self.folder / "silo"
        path.write_text(text)
        path.chmod(0o755)
        return path

    def cli(self, text: str) -> CliEngine:
        return CliEngine(self.program(text), os.environ | {"SILO_RUN_TIMEOUT_SECONDS": "3600"})


@contextmanager
def runner(exchange: Path, program: Path, config: Path) -> Iterator[None]:
    """The watcher that is shipped, as it runs in SILO's container."""
    environment = {
        "PATH": os.environ["PATH"],
        "INPUT_DIR": str(exchange),
        "PATH_TO_SILO_BINARY": str(program),
        "PREPROCESSING_CONFIG": str(config),
        "SILO_RUNNER_SLEEP_SECONDS": "0.05",
    }
    watcher = subprocess.Popen(
        ["sh", str(WATCHER)], env=environment, cwd=exchange.parent, start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(watcher.pid, signal.SIGKILL)
        watcher.wait()


def ask(output: Path, *queries: str) -> list[list[dict[str, Any]]]:
    """What another process reads from the newest index in a folder: the rows of each query."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(output), *queries], check=True, capture_output=True, text=True
    )
    answers: list[list[dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def count(output: Path, selection: str = "") -> int:
    """How many rows of the newest index in a folder a filter selects; all without one."""
    [[answer]] = ask(output, f"{selection}.group({{}}, {{n := count()}})")
    return int(answer["n"])


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """A process that dies by a signal is gone within milliseconds; 10 s is for a machine under load."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)

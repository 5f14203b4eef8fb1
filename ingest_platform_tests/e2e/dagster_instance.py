"""Dagster as users run it: the real programs in processes of their own, ended with all their children."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from ingest_platform_tests.e2e.place import REPOSITORY, Place
from ingest_platform_tests.services.processes import free_port

BIN = Path(sys.executable).parent
# On two quiet cores Dagster is up after 8 s and a run takes 7 s; a busy machine needs many times that.
UP_WITHIN_SECONDS = 120
RUN_WITHIN_SECONDS = 150
STOP_WITHIN_SECONDS = 20


@dataclass(frozen=True, slots=True)
class RunningDagster:
    """A daemon, and its web server if it has one, on one place."""

    place: Place
    url: str
    log: Path

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(self.place.environ["DAGSTER_HOME"]) as instance:
            yield instance

    def finished(self, run_id: str) -> dg.DagsterRun:
        """The run, once it has ended."""

        def ended() -> dg.DagsterRun | None:
            run = instance.get_run_by_id(run_id)
            return run if run is not None and run.is_finished else None

        with self.instance() as instance:
            return self.wait_for(ended, f"the end of run {run_id}")

    def wait_for[T](self, look: Callable[[], T | None], what: str, within: float = RUN_WITHIN_SECONDS) -> T:
        """What `look` finds, as soon as it finds something. Fails with Dagster's own last words."""
        deadline = time.monotonic() + within
        while not (found := look()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {within:.0f} s\n{_tail(self.log)}")
            time.sleep(0.25)
        return found


@contextmanager
def dagster_dev(place: Place) -> Iterator[RunningDagster]:
    """`dg dev`, as `make dev` starts it: web server, daemon and code server."""
    port = free_port()
    command = [str(BIN / "dg"), "dev", "--host", "127.0.0.1", "--port", str(port)]
    with _running(place, command) as log:
        running = RunningDagster(place, f"http://127.0.0.1:{port}", log)
        running.wait_for(lambda: _answers(f"{running.url}/server_info"), "Dagster's page", UP_WITHIN_SECONDS)
        yield running


@contextmanager
def dagster_daemon(place: Place, workspace: str = "workspace.yaml") -> Iterator[RunningDagster]:
    """The daemon alone, by default with the workspace that the repository ships."""
    with _running(place, [str(BIN / "dagster-daemon"), "run", "-w", workspace]) as log:
        yield RunningDagster(place, "", log)


def launch(place: Place, job: str, partition: str, *options: str) -> str:
    """`dagster job launch` as the README says it. The run's id; the exit code 0 means queued."""
    run_id = str(uuid.uuid4())
    tags = f'{{"dagster/partition": "{partition}"}}'
    command = ["job", "launch", "-w", "workspace.yaml", "-j", job, "--tags", tags, "--run-id", run_id]
    call(place, "dagster", *command, *options, check=True)
    return run_id


def call(
    place: Place, program: str, *arguments: str, check: bool = False, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of our or Dagster's programs to its end, from the repository as users do."""
    return subprocess.run(
        [BIN / program, *arguments],
        cwd=REPOSITORY,
        env={**place.environ, **(environ or {})},
        capture_output=True,
        text=True,
        check=check,
        timeout=RUN_WITHIN_SECONDS,
    )


@contextmanager
def _running(place: Place, command: Sequence[str]) -> Iterator[Path]:
    """The command in a process group of its own, whose end is the end of the whole group."""
    log = place.home / "dagster.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=dict(place.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        stop_group(process)


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all its children: gently, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  our own loopback address
            return bool(response.status == 200)
    except OSError:
        return False


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

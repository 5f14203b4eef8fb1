"""An engine in another container, told by files in a shared folder: run_silo asks, silo_done answers.

The runner (deploy/silo/watcher.sh, or the one that Loculus ships) reads the inputs from that folder and
writes the index straight into the output folder, so what it leaves there half-done is removed here.
"""

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ingest_platform.errors import StoreUnavailable
from ingest_platform.silo.database import DATABASE_CONFIG, REFERENCE_GENOMES
from ingest_platform.silo.engines.contract import (
    Built,
    EngineError,
    EngineFailed,
    EngineRefused,
    EngineTimedOut,
    tail,
)
from ingest_platform.silo.inputs import Inputs
from ingest_platform.silo.served import Index, indexes
from ingest_platform.silo.stopping import NEVER, Stopped, raise_if_stopped
from ingest_platform.storage.durable import to_disk

ASK, DONE, LOG = "run_silo", "silo_done", "silo.log"
# What our watcher writes at its start: the program's own words. Other runners write none.
VERSION = "silo_version"
# SILO's own files, as far as they are mounted into the runner's input folder.
OWN_FILES = ("preprocessing_config.yaml", DATABASE_CONFIG, REFERENCE_GENOMES)
POLL_SECONDS = 1.0
# Our watcher kills the engine at the time-out and says so; it may look a second late and need 5 s to kill.
GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class SentinelEngine:
    """Asks a runner. One importer at a time may use `exchange`."""

    exchange: Path  # the runner's input folder
    output: Path  # the runner's output folder, which the API polls
    clock: Callable[[], float] = time.monotonic  # seconds
    sleep: Callable[[float], None] = time.sleep
    new_id: Callable[[], str] = lambda: uuid4().hex

    @property
    def identity(self) -> str:
        """With all that the exchange folder tells of program and configuration: another one is another index.

        StoreUnavailable if the folder cannot be read.
        """
        version = (_read(self.exchange / VERSION) or b"").decode(errors="replace").strip()
        own = {name: content for name in OWN_FILES if (content := _read(self.exchange / name)) is not None}
        told = [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in own.items()]
        config = hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
        return " ".join(
            ["sentinel", *([version] if version else []), *([f"config {config}"] if told else [])]
        )

    def build(
        self,
        inputs: Inputs,
        staging: Path,  # noqa: ARG002
        *,
        timeout_seconds: float,
        stop: threading.Event = NEVER,
    ) -> Built:
        """As the contract says, but for two things: the index lies in `output` already, and only a runner
        that heeds timeout_seconds, and a withdrawn run_silo, is dead after a failure. What an older
        run left is cleared first.
        """
        began = self.clock()
        before = _numbers(self.output)
        try:
            self._clear()
            self._place(inputs)
            run_id = self._ask(timeout_seconds)
            self._await(run_id, began + timeout_seconds + GRACE_SECONDS, stop)
            log_tail = tail(self.exchange / LOG)
            return Built(self._new_index(before, log_tail), log_tail, self.clock() - began)
        except (EngineError, Stopped):
            self._remove_new(before)
            raise
        except OSError as error:
            raise StoreUnavailable(
                f"{self.exchange}: the runner's folder does not take or give files: {error}. The published"
                " index stays. Make room."
            ) from error
        finally:
            self._clear()
            (self.exchange / inputs.records.name).unlink(missing_ok=True)

    def _clear(self) -> None:
        for name in (ASK, f"{ASK}.tmp", DONE, LOG):
            (self.exchange / name).unlink(missing_ok=True)

    def _place(self, inputs: Inputs) -> None:
        """Each file by a rename: a runner that starts late or early never reads half of one.

        The records of an importer that was killed go first: they must not meet our lineage files.
        """
        self.exchange.mkdir(parents=True, exist_ok=True)
        (self.exchange / inputs.records.name).unlink(missing_ok=True)
        for file in (*inputs.lineages, inputs.records):
            half = self.exchange / f".{file.name}.tmp"
            shutil.copyfile(file, half)
            half.rename(self.exchange / file.name)

    def _ask(self, timeout_seconds: float) -> str:
        run_id = self.new_id()
        half = self.exchange / f"{ASK}.tmp"
        half.write_text(f"run_id={run_id}\ntimeout_seconds={timeout_seconds:.0f}\n")
        to_disk(half)
        half.rename(self.exchange / ASK)
        return run_id

    def _await(self, run_id: str, deadline: float, stop: threading.Event) -> None:
        """Return when the runner reports success for `run_id`; wait on a foreign or half-written report."""
        while True:
            report = _report(self.exchange / DONE)
            if report.get("run_id") == run_id and "status" in report:
                return self._heed(run_id, report)
            raise_if_stopped(stop, f"run {run_id}")
            if self.clock() > deadline:
                raise EngineTimedOut(f"run {run_id}: the runner has not reported.", tail(self.exchange / LOG))
            self.sleep(POLL_SECONDS)

    def _heed(self, run_id: str, report: Mapping[str, str]) -> None:
        if report["status"] == "success":
            return
        message = report.get("message", "no message")
        log_tail = tail(self.exchange / LOG)
        match message.removeprefix("exit code "):
            case "1":
                raise EngineRefused(f"run {run_id}: SILO does not take the inputs (exit 1).", log_tail)
            case "124":  # how `timeout` reports that it ended its command
                raise EngineTimedOut(f"run {run_id}: the runner ended SILO at its time-out.", log_tail)
            case "137":
                raise EngineFailed(f"run {run_id}: SILO was killed, for memory or at its time-out.", log_tail)
            case _:
                raise EngineFailed(f"run {run_id}: {report['status']}: {message}.", log_tail)

    def _new_index(self, before: frozenset[Path], log_tail: str) -> Index:
        there = indexes(self.output)
        new = [index for index in there if index.path not in before]
        if not new:
            raise EngineFailed(
                f"{self.output}: the runner reports success, but no new index is there.", log_tail
            )
        if new[-1] != there[-1]:
            raise EngineFailed(
                f"{new[-1].path}: SILO's API would go on with {there[-1].timestamp}, the larger number. Set"
                " the clock of the runner's machine.",
                log_tail,
            )
        return new[-1]

    def _remove_new(self, before: frozenset[Path]) -> None:
        """What a failed run has left, finished or not; older folders are not ours to judge."""
        for path in _numbers(self.output) - before:
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> bytes | None:
    """None: there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreUnavailable(
            f"{path}: cannot be read, so nobody knows whether the index is still right: {error}. The"
            " published one stays. Let the importer read the runner's folder."
        ) from error


def _numbers(output: Path) -> frozenset[Path]:
    if not output.exists():
        return frozenset()
    return frozenset(path for path in output.iterdir() if path.name.isdecimal() and path.is_dir())


def _report(done: Path) -> Mapping[str, str]:
    """The key=value lines of a report that have their newline: a line without one may still grow."""
    try:
        lines = done.read_text(errors="replace").split("\n")[:-1]
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)

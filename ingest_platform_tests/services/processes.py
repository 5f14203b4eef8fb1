"""Processes that tests started: launched, written down, ended by the pid that was written down.

Nothing here knows which server it runs. A folder owns its processes: `processes.json` in it names each by
pid and start time, so that a pid which the kernel gave to somebody else meanwhile is never signalled.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

# Weaviate, the slowest, needs 7.5 s on a quiet machine with two cores; a busy one may take many times that.
READY_WITHIN_SECONDS = 120
STOP_WITHIN_SECONDS = 20
RECORD = "processes.json"


class ServerUnavailable(Exception):
    """A server is not installed or did not start. The message says what to install or which log to read."""


@dataclass(frozen=True, slots=True)
class Process:
    """One server process. `started` is the kernel's start time: with the pid it names one process."""

    name: str
    pid: int
    started: float
    stop_signal: int = signal.SIGTERM


def launch(
    name: str,
    command: Sequence[str | Path],
    *,
    folder: Path,
    ready: Callable[[], bool],
    environ: Mapping[str, str] | None = None,
) -> Process:
    """Start `command` in a session of its own, log to `folder`/`name`.log, return once `ready()` is true."""
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **(environ or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C belongs to pytest, which then stops its servers in order
        )
    process = record(folder, name, child.pid)
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            stop(process)
            raise ServerUnavailable(f"{name} did not get ready, exit code {child.poll()}:\n{_tail(log)}")
        time.sleep(0.05)
    return process


def record(folder: Path, name: str, pid: int, stop_signal: int = signal.SIGTERM) -> Process:
    """Write a process down as owned by `folder`, which from then on can end it."""
    process = Process(name, pid, psutil.Process(pid).create_time(), stop_signal)
    entries = [*recorded(folder), process]
    (folder / RECORD).write_text(json.dumps([asdict(entry) for entry in entries], indent=1))
    return process


def recorded(folder: Path) -> list[Process]:
    """The processes that `folder` owns, in the order they were started."""
    path = folder / RECORD
    return [Process(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def stop_all(folder: Path) -> list[str]:
    """End the processes of `folder`, the youngest first, and forget them. The names of those alive."""
    alive = [process.name for process in reversed(recorded(folder)) if stop(process)]
    (folder / RECORD).unlink(missing_ok=True)
    return alive


def stop(process: Process) -> bool:
    """End one process, by force if it does not listen. False when it was gone already."""
    try:
        running = psutil.Process(process.pid)
        if running.create_time() != process.started:
            return False
        running.send_signal(process.stop_signal)
        try:
            running.wait(STOP_WITHIN_SECONDS)
        except psutil.TimeoutExpired:
            running.kill()
            running.wait(STOP_WITHIN_SECONDS)
    except psutil.NoSuchProcess:
        return False
    return True


def sweep(root: Path) -> None:
    """End what killed test sessions left behind: folders in `root` are named for the pid that owns them.

    Sessions that start together sweep together: renaming a folder to their own pid decides who takes it.
    """
    for number, folder in enumerate(root.glob("*")):
        owner = folder.name.partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            taken = root / f"{os.getpid()}-swept-{number}"
            with suppress(FileNotFoundError):
                folder.rename(taken)
                stop_all(taken)
                shutil.rmtree(taken, ignore_errors=True)


def free_port(following: int = 0) -> int:
    """A TCP port of the loopback that nobody listens on at the moment, nor on the `following` next.

    Below the range from which Linux takes the ports of outgoing connections (32768 up): a server that is
    slow to start would find one of those taken meanwhile by any client on the machine.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        if all(_is_free(port + step) for step in range(following + 1)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

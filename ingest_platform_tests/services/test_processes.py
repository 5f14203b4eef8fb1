"""The servers' own promise: whatever happens to a test session, none of its processes stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ingest_platform_tests.services.processes import Process, launch, record, recorded, stop, stop_all, sweep

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
# A session whose one test holds a server; the fixtures are the real ones.
SESSION = """
import pathlib, time
def test_that_lasts(redis_url, services_folder):
    pathlib.Path({told!r}).write_text(str(services_folder))
    time.sleep(600)
"""


def sleeper(folder: Path) -> Process:
    return launch("sleeper", SLEEPER, folder=folder, ready=lambda: True)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A pytest session in the middle of a test, and the folder that owns its server."""
    told = tmp_path / "folder"
    here = Path(__file__).parents[1]
    (tmp_path / "test_lasting.py").write_text(SESSION.format(told=str(told)))
    pytest_command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "ingest_platform_tests.conftest",
        str(tmp_path),
    ]
    # Servers of `make services` would leave this session nothing to end.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("INGEST_TEST_")}
    # A temporary folder of its own: another session that starts meanwhile must not sweep this one up.
    environ["TMPDIR"] = str(tmp_path)
    process = subprocess.Popen(
        [*pytest_command, "--rootdir", str(tmp_path), "-p", "no:cacheprovider"],
        cwd=here.parent,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell's background job ignores Ctrl-C and hands that down; this session stands for one in front.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (told.exists() and told.read_text()):
        assert process.poll() is None, "the session ended before its server ran"
        assert time.monotonic() < deadline, "the session's server did not start"
        time.sleep(0.05)
    folder = Path(told.read_text())
    yield process, folder
    process.kill()
    process.wait()
    sweep(folder.parent)  # a claim that failed must not leave its server either


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_session_ends_its_servers(
    number: signal.Signals, session: tuple[subprocess.Popen[bytes], Path]
) -> None:
    """Else every Ctrl-C, and every cancelled CI job, leaves a server and its data behind."""
    process, folder = session
    (server,) = recorded(folder)

    process.send_signal(number)
    process.wait(30)

    assert not is_running(server)
    assert not folder.exists()


def test_the_next_session_ends_what_a_killed_one_left(session: tuple[subprocess.Popen[bytes], Path]) -> None:
    """Else a machine out of memory collects servers until it has none left."""
    process, folder = session
    (server,) = recorded(folder)
    process.kill()
    process.wait()
    assert is_running(server)

    sweep(folder.parent)

    assert not is_running(server)
    assert not folder.exists()


def test_a_sweep_leaves_living_sessions_alone(tmp_path: Path) -> None:
    """Else two sessions on one machine end each other's servers."""
    ours = tmp_path / str(os.getpid())
    ours.mkdir()
    server = sleeper(ours)

    sweep(tmp_path)

    assert is_running(server)
    assert stop_all(ours) == ["sleeper"]


def test_a_pid_that_belongs_to_somebody_else_is_not_signalled(tmp_path: Path) -> None:
    """Else an old record ends whatever program the kernel gave the number to."""
    server = sleeper(tmp_path)
    impostor = Process("gone", server.pid, server.started - 3600)

    assert not stop(impostor)
    assert is_running(server)

    stop_all(tmp_path)


def test_a_server_that_ignores_the_signal_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the end of the tests waits for ever."""
    monkeypatch.setattr("ingest_platform_tests.services.processes.STOP_WITHIN_SECONDS", 0.5)
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    server = record(tmp_path, "stubborn", child.pid)

    assert stop(server)

    assert not is_running(server)


def is_running(process: Process) -> bool:
    try:
        found = psutil.Process(process.pid)
        return found.create_time() == process.started and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

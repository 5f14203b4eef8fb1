"""Real servers that a test takes away and brings back, with the data and on the port that they had."""

import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ingest_platform_tests.services.processes import record, recorded


@dataclass
class Server:
    """The last process that `folder` recorded; the folder owns its successors too."""

    folder: Path
    _process: psutil.Process = field(init=False)
    _command: list[str] = field(init=False)
    _environ: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._process = psutil.Process(recorded(self.folder)[-1].pid)
        self._command, self._environ = self._process.cmdline(), self._process.environ()

    def away(self, how: signal.Signals = signal.SIGKILL) -> None:
        """The server dies as in a power cut. PostgreSQL wants SIGQUIT, which takes its children along."""
        self._cwd, self._uid, self._gid = (
            self._process.cwd(),
            *(self._process.uids()[0], self._process.gids()[0]),
        )
        self._process.send_signal(how)
        self._process.wait(30)

    def back(self) -> None:
        """Begin to start it again; it answers when it has recovered."""
        with (self.folder / "back.log").open("ab") as log:
            child = subprocess.Popen(
                self._command,
                env=self._environ,
                cwd=self._cwd,
                user=self._uid,
                group=self._gid,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        name = recorded(self.folder)[-1].name
        record(self.folder, name, child.pid, recorded(self.folder)[-1].stop_signal)
        self._process = psutil.Process(child.pid)

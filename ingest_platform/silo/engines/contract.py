"""What every engine promises: a folder of inputs becomes one finished index, or an error with the log's end.

EngineError (TransientError)
├── EngineRefused    exit 1: it read the inputs and does not take them; also Damaged
├── EngineFailed     any other exit, a signal, or success without a finished index
└── EngineTimedOut   killed, with every process that it had started
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ingest_platform.errors import Damaged, TransientError
from ingest_platform.silo.inputs import Inputs
from ingest_platform.silo.served import Index, index_at
from ingest_platform.silo.stopping import NEVER

LOG_TAIL_BYTES = 4000  # the engine's last 30 lines


@dataclass(frozen=True, slots=True)
class Built:
    """A finished index, not yet published."""

    index: Index
    log_tail: str
    seconds: float


class Engine(Protocol):
    """Builds an index."""

    @property
    def identity(self) -> str:
        """Name and version: another engine means another index of the same records."""

    def build(
        self, inputs: Inputs, staging: Path, *, timeout_seconds: float, stop: threading.Event = NEVER
    ) -> Built:
        """Build into the empty folder `staging`. EngineError, or Stopped soon after `stop` is set; then
        nothing in `staging` is to be used.

        When it returns or raises, no process of the build is left.
        """


class EngineError(TransientError):
    """The build gave no index. The published one stays; `log_tail` is what the engine said last."""

    def __init__(self, message: str, log_tail: str) -> None:
        super().__init__(f"{message} The published index stays. The engine said last:\n{log_tail}")
        self.log_tail = log_tail


class EngineRefused(EngineError, Damaged):
    """The engine does not take these inputs."""


class EngineFailed(EngineError):
    """The engine broke, whatever the inputs."""


class EngineTimedOut(EngineError):
    """The engine did not finish in time."""


def the_index(staging: Path, log_tail: str) -> Index:
    """The one finished index below `staging`. EngineFailed if there is none, or more."""
    found = [index for path in staging.iterdir() if (index := index_at(path)) is not None]
    if len(found) != 1:
        there = ", ".join(sorted(path.name for path in staging.iterdir())) or "nothing"
        raise EngineFailed(
            f"{staging}: the engine ended well, but left {len(found)} finished indexes ({there}).", log_tail
        )
    return found[0]


def tail(log: Path) -> str:
    """The end of a log file, from the beginning of a line; "" if there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return text if size <= LOG_TAIL_BYTES else text.partition("\n")[2] or text

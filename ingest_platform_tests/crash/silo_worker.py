"""An importer in a process of its own that dies, or falls asleep, where told: a real death needs one."""

import multiprocessing
import os
import signal
from dataclasses import replace
from datetime import datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ingest_platform.silo.engines.cli import CliEngine
from ingest_platform_tests.silo_station import station
from ingest_platform_tests.silo_world import Loculus

# Each worker is forked from a process that has imported everything and has no threads.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


def start(
    root: Path, url: str, moment: datetime, point: str, fate: signal.Signals, binary: Path | None = None
) -> ForkServerProcess:
    """A worker that polls and imports at this moment, and gets the signal when it passes the point.

    `binary`: a real engine process instead of the stand-in.
    """
    worker = _FORKS.Process(target=_work, args=(root, url, moment, point, fate, binary), daemon=True)
    worker.start()
    return worker


def _work(
    root: Path, url: str, moment: datetime, point: str, fate: signal.Signals, binary: Path | None
) -> None:
    def at(passed: str) -> None:
        if passed == point:
            os.kill(os.getpid(), fate)

    with station(root, Loculus(url=url), at=at) as place:
        if binary is not None:
            engine = CliEngine(binary, os.environ)
            place.rails = replace(place.rails, choose_engine=lambda _organism, _environ: engine)
        place.at = moment
        place.poll()
        place.ingest()

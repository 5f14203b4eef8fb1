"""Claim (d): how much of a long run is work on weather: fetching, decoding, writing.

A Dagster run of a GFS cycle's leads: its job in this process, in-process executor, an instance on SQLite
that is there already. By the clock: a moment counts as work while at least one thread fetches, decodes or
writes a grid, or seals a draft. The rest is everything else: Dagster's steps and events, ledger, claims,
pictures, summaries. The start of a run's own process, which a run has once, is told beside it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click

from benchmarks import inputs
from benchmarks.measure import BYTECODE, ROOT, Claim, measure, tell
from ingest_platform.demo.mirror import Extent, make_mirror

# Three batches of sixteen leads: a minute on two cores.
LEADS = 48
NOW = datetime.now(UTC)
GOAL = 0.95


def main() -> None:
    """Lay a cycle, run its job, say the share."""
    with inputs.scratch() as folder:
        made = make_mirror(
            folder / "mirror", [inputs.model("gfs")], now=NOW, extent=Extent({"gfs": range(LEADS)})
        )
        click.echo(f"{len(made)} leads, {sum(m.size_bytes for m in made) / 1e9:.1f} GB")
        ours = measure("benchmarks.domain_share:run", {"folder": str(folder)})
        start = _start_seconds(folder)
    share = ours.result["work_seconds"] / ours.wall_seconds
    launched = ours.result["work_seconds"] / (ours.wall_seconds + start)
    click.echo(f"with the start of a run's process, {start:.1f} s: {launched:.1%}; work, longest first:")
    for name, seconds in sorted(ours.result["by_name"].items(), key=lambda item: -item[1]):
        click.echo(f"  {name:20} {seconds:7.1f} thread-seconds")
    name = (
        f"share of domain work in a Dagster run of {ours.wall_seconds:.0f} s ({ours.result['grids']} grids)"
    )
    tell(Claim(name, ours, None, share, "≥ 0.95", share >= GOAL))


def run(folder: str) -> Callable[[], dict[str, Any]]:
    """The job's run on an instance of its own; definitions are loaded before."""
    import dagster as dg

    place = Path(folder) / secrets.token_hex(4)
    (place / "dagster").mkdir(parents=True)
    endpoint = (Path(folder) / "mirror").as_uri()
    os.environ |= {"INGEST_HOME": str(place), "INGEST_WEATHER_ENDPOINT": endpoint}
    from ingest_platform.definitions import defs

    job = defs.resolve_job_def("ingest_gfs")
    instance = dg.DagsterInstance.local_temp(str(place / "dagster"))
    clock = Clock()
    _watch(clock)
    partition = _partition(Path(folder))

    def work() -> dict[str, Any]:
        done = job.execute_in_process(instance=instance, partition_key=partition)
        (made,) = done.get_asset_materialization_events()
        grids = made.materialization.metadata["grids"].value
        return {"work_seconds": clock.busy_seconds, "by_name": clock.by_name, "grids": grids}

    return work


def _partition(folder: Path) -> str:
    from ingest_platform.weather.keys import parse

    gfs = inputs.model("gfs")
    bucket = next((folder / "mirror").iterdir())
    key = next(str(path.relative_to(bucket)) for path in bucket.rglob("*.f000"))
    file = parse(gfs, bucket.name, key)
    if file is None:
        raise RuntimeError(f"{key} is no key of GFS")
    return gfs.partition_key(file.event_time)


@dataclass(slots=True)
class Clock:
    """How long at least one thread was at work."""

    busy_seconds: float = 0.0
    by_name: dict[str, float] = field(default_factory=dict)  # summed over threads
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _at_work: int = 0
    _since: float = 0.0

    @contextmanager
    def work(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        with self._lock:
            self._since = started if self._at_work == 0 else self._since
            self._at_work += 1
        try:
            yield
        finally:
            ended = time.monotonic()
            with self._lock:
                self._at_work -= 1
                self.by_name[name] = self.by_name.get(name, 0.0) + ended - started
                if self._at_work == 0:
                    self.busy_seconds += ended - self._since


def _watch(clock: Clock) -> None:
    """Put the clock around the four kinds of work."""
    from ingest_platform.weather import fetch, grib, publish

    for module, name in ((fetch, "fetch_messages"), (grib, "decode"), (publish, "write"), (publish, "seal")):
        setattr(module, name, _timed(clock, name, getattr(module, name)))


def _timed[**P, T](clock: Clock, name: str, function: Callable[P, T]) -> Callable[P, T]:
    @wraps(function)
    def timed(*arguments: P.args, **named: P.kwargs) -> T:
        with clock.work(name):
            return function(*arguments, **named)

    return timed


def _start_seconds(folder: Path) -> float:
    """From the launch of a run's process until it has loaded the definitions."""
    environ = {**os.environ, **BYTECODE, "INGEST_HOME": str(folder)}
    command = [sys.executable, "-c", "import ingest_platform.definitions"]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, env=environ)  # noqa: S603 - our own module
    return time.monotonic() - started


if __name__ == "__main__":
    main()

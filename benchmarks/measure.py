"""Runs one function in a process of its own and says what it cost: wall, CPU and memory.

    ours = measure("benchmarks.gfs_hour:ours", {"source": url}, repeat=3)
    peer = measure("benchmarks.gfs_hour:peer", {"source": url}, repeat=3)
    tell(Claim("one GFS hour against Herbie", ours, peer, ratio=…, goal="≥ 5 ×", holds=…))

A fresh process for every repetition: no cache, no thread and no peak of one run is another's. A claim is
printed as a line for people and a line of JSON; whoever runs all scripts collects the latter.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. CPU is user + system, ended children included; the peak is the largest process'."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float
    result: Any  # what the function returned, through JSON


@dataclass(frozen=True, slots=True)
class Measured:
    """All runs of one function; the figures are medians."""

    samples: tuple[Sample, ...]

    @property
    def wall_seconds(self) -> float:
        return median(sample.wall_seconds for sample in self.samples)

    @property
    def cpu_seconds(self) -> float:
        return median(sample.cpu_seconds for sample in self.samples)

    @property
    def peak_mib(self) -> float:
        """The highest of all runs: a limit must hold in each."""
        return max(sample.peak_mib for sample in self.samples)

    @property
    def spread(self) -> float:
        """Slowest less fastest run, as a share of the median wall time."""
        walls = [sample.wall_seconds for sample in self.samples]
        return (max(walls) - min(walls)) / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def result(self) -> Any:
        """What the last run returned."""
        return self.samples[-1].result

    def per(self, pieces: int) -> Measured:
        """The same runs, by one of the equal pieces of their work; the peak stays the whole's."""
        return Measured(
            tuple(
                Sample(s.wall_seconds / pieces, s.cpu_seconds / pieces, s.peak_mib, s.result)
                for s in self.samples
            )
        )

    def json(self) -> dict[str, float]:
        return {
            "wall_seconds": round(self.wall_seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "peak_mib": round(self.peak_mib, 1),
            "spread": round(self.spread, 3),
            "repetitions": len(self.samples),
        }

    def __str__(self) -> str:
        return (
            f"{self.wall_seconds:8.3f} s wall  {self.cpu_seconds:8.3f} s CPU  {self.peak_mib:6.0f} MiB"
            f"  (median of {len(self.samples)}, spread {self.spread:.0%})"
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """One line of the table. `ours` and `peer` are Measured, or whatever figures the claim is about."""

    claim: str
    ours: Measured | Mapping[str, Any]
    peer: Measured | Mapping[str, Any] | None
    ratio: float | None  # what the goal speaks of where it is a quotient
    goal: str
    holds: bool

    def json(self) -> dict[str, Any]:
        return {
            "claim": self.claim,
            "ours": _figures(self.ours),
            "peer": _figures(self.peer),
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "goal": self.goal,
            "holds": self.holds,
        }


def measure(
    target: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    repeat: int = 1,
    python: str = sys.executable,
    environ: Mapping[str, str] | None = None,
) -> Measured:
    """Call `module:function(**arguments)` `repeat` times, each in a new process.

    If the function returns a callable, that is what is measured, and the function was its preparation:
    imports and inputs. Arguments and results pass through JSON. RuntimeError, with what it printed, if
    the process fails. `environ` is added to this process' own.
    """
    return Measured(tuple(_run(target, arguments or {}, python, environ or {}) for _ in range(repeat)))


def tell(claim: Claim) -> None:
    """Print a claim for people and for the collector."""
    click.echo(f"{claim.claim}")
    for name, figures in (("ours", claim.ours), ("peer", claim.peer)):
        if figures is not None:
            click.echo(f"  {name}  {figures if isinstance(figures, Measured) else json.dumps(dict(figures))}")
    ratio = "" if claim.ratio is None else f"{claim.ratio:.2f}, "
    click.echo(f"  {'holds' if claim.holds else 'MISSED'}: {ratio}goal {claim.goal}")
    click.echo(json.dumps(claim.json()))


def _figures(found: Measured | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return found.json() if isinstance(found, Measured) else dict(found)


def _run(target: str, arguments: Mapping[str, Any], python: str, environ: Mapping[str, str]) -> Sample:
    with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
        command = [python, "-m", "benchmarks.measure", target, json.dumps(dict(arguments)), answer.name]
        done = subprocess.run(  # noqa: S603 - our own module
            command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{target} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
        return Sample(**json.load(answer))


# The child's side.


def _main(arguments: Sequence[str]) -> None:
    target, text, answer = arguments
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    given = json.loads(text)
    sample = _measured(lambda: function(**given))
    Path(answer).write_text(json.dumps(sample))


def _measured(call: Callable[[], Any]) -> dict[str, Any]:
    for _ in range(2):
        started, cpu = time.monotonic(), _cpu_seconds()
        result = call()
        wall, spent = time.monotonic() - started, _cpu_seconds() - cpu
        if not callable(result):
            return {"wall_seconds": wall, "cpu_seconds": spent, "peak_mib": _peak_mib(), "result": result}
        call = result
    raise TypeError("a measured function returned a function twice")


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _peak_mib() -> float:
    """Of this process and its ended children, the largest."""
    # ru_maxrss of a new process begins at its parent's peak; VmHWM is its own.
    status = Path("/proc/self/status").read_text()
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


if __name__ == "__main__":
    _main(sys.argv[1:])

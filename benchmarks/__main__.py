"""Runs every benchmark and rewrites README.md's table from what they print.

`python -m benchmarks [NAME …] [--results FILE]`. A script that fails ends the whole; a goal that is missed
stands in the table as missed. Without names: all, and only then is the table rewritten.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.measure import ROOT

# None is a benchmark.
_NOT_SCRIPTS = ("databases", "measure", "inputs", "range_server")
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"

type Record = dict[str, Any]


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--results", type=click.Path(path_type=Path), help="Append each claim's JSON line to this file."
)
def main(names: Sequence[str], results: Path | None) -> None:
    """Run the named benchmarks, or all of them and rewrite the README's table."""
    records = [record for name in names or scripts() for record in _run(name)]
    if results is not None:
        with results.open("a") as file:
            file.writelines(f"{json.dumps(record)}\n" for record in records)
    if not names:
        readme = ROOT / "README.md"
        readme.write_text(with_table(readme.read_text(), table(records)))
    missed = [record["claim"] for record in records if not record["holds"]]
    click.echo(f"{len(records)} claims, {len(missed)} missed{': ' if missed else ''}{'; '.join(missed)}")
    sys.exit(1 if missed else 0)


def scripts() -> list[str]:
    """Names of the benchmark scripts."""
    found = (path.stem for path in sorted(Path(__file__).parent.glob("[a-z]*.py")))
    return [name for name in found if name not in _NOT_SCRIPTS]


def _run(name: str) -> Iterator[Record]:
    """The claims that a script prints, while everything that it prints passes through."""
    click.echo(f"\n== {name}")
    command = [sys.executable, "-u", "-m", f"benchmarks.{name}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as script:  # noqa: S603 - ours
        assert script.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in script.stdout:
            if line.startswith('{"claim"'):
                yield json.loads(line)
            else:
                click.echo(line, nl=False)
    if script.returncode:
        raise click.ClickException(f"benchmarks/{name}.py ended with code {script.returncode}")


def table(records: Sequence[Record]) -> str:
    """The claims as a Markdown table."""
    rows = ["| claim | ours | peer | ratio | goal | |", "|---|---|---|---|---|---|"]
    for record in records:
        ratio = "" if record["ratio"] is None else f"{record['ratio']:.2f}"
        holds = "holds" if record["holds"] else "**missed**"
        cells = (record["claim"], _cell(record["ours"]), _cell(record["peer"]), ratio, record["goal"], holds)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(figures: Record | None) -> str:
    if figures is None:
        return "–"
    if "wall_seconds" not in figures:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
    wall, cpu, peak = (figures[name] for name in ("wall_seconds", "cpu_seconds", "peak_mib"))
    return f"{wall:.3g} s, {cpu:.3g} CPU-s, {peak:.0f} MiB"


def with_table(text: str, made: str) -> str:
    """The page with the table between its markers; ClickException if it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(
            f"README.md has no {BEGIN} … {END}: put the markers where the table belongs"
        )
    where = (
        f"Measured by `make bench` on {os.cpu_count()} cores; median wall, CPU seconds, highest peak memory."
    )
    return f"{before}{BEGIN}\n{where}\n\n{made}\n{END}{after}"


if __name__ == "__main__":
    main()

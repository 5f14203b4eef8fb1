"""`make demo`: the platform's main job on embedded defaults, from a bucket listing to a picture in the UI.

Makes a small local mirror of NOAA's buckets (or, with --live, uses the real ones) and serves an organism's
invented genomes, starts Dagster and only watches: the sensors find the files by themselves. Needs no server
and no account.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import yaml
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import ingest_platform
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.demo import genomes
from ingest_platform.demo.mirror import Extent, make_mirror
from ingest_platform.settings import SETTINGS, Settings
from ingest_platform.weather.config import load_models
from ingest_platform.weather.model import Model

# A demo whose numbers stand still this long is broken, not slow: Dagster starts in 10 s on two quiet cores,
# a run needs 5 s to its first grid. The real buckets add the network: a batch of sixteen GFS leads is 1 GB.
STALLED_AFTER_SECONDS = 120.0
LIVE_STALLED_AFTER_SECONDS = 900.0
# Three leads of each forecast show the lead axis; a whole GFS cycle is 209 objects.
DEMO_HOURS = range(3)
# Long enough for the latest complete cycle, short enough that the real buckets give minutes of work.
LIVE_RETENTION_HOURS = {"gfs": 12, "hrrr": 3, "goes": 1, "mrms": 1}


@dataclass(frozen=True, slots=True)
class Progress:
    """Objects of one model that reached a final state, of those that are known; or an organism's genomes."""

    name: str
    ingested: int
    known: int
    expected: int | None  # None: the real buckets, nobody knows before the listing

    @property
    def done(self) -> bool:
        return self.ingested > 0 and self.ingested >= (self.expected or self.known)

    def __str__(self) -> str:
        return f"{self.name} {self.ingested}/{self.expected or self.known}"


@click.command()
@click.option("--live", is_flag=True, help="The real public buckets instead of the local mirror.")
@click.option("--home", type=click.Path(path_type=Path), default=Path(".home/demo"), show_default=True)
def main(live: bool, home: Path) -> None:
    """Ingest four feeds through Dagster and say where they lie and how to open them."""
    if not Path("dagster.yaml").exists():
        raise click.UsageError("there is no dagster.yaml here: start the demo from the repository's folder")
    console = Console(highlight=False)
    started = time.monotonic()
    home = _fresh(home.absolute())
    environ = _environment(home, live)
    models = load_models(Settings.from_environment(environ).weather_models)
    expected = None if live else _mirror(console, home, models)
    with ExitStack() as served:
        if genomes.engine_is_installed():
            environ = {**environ, "INGEST_SILO_ORGANISMS": str(served.enter_context(genomes.serving(home)))}
        else:
            console.print("without genomes: their engine is not installed (uv sync --extra silo)")
        _run(console, environ, home, models, expected, live, started)


def _run(
    console: Console,
    environ: Mapping[str, str],
    home: Path,
    models: Sequence[Model],
    expected: Mapping[str, int] | None,
    live: bool,
    started: float,
) -> None:
    port = _free_port()
    server = _start_dagster(home, environ, port)
    try:
        patience = LIVE_STALLED_AFTER_SECONDS if live else STALLED_AFTER_SECONDS
        progress = _watch(console, environ, models, expected, patience, server)
        _summarise(console, environ, models, progress, port, time.monotonic() - started)
        if os.environ.get("CI") == "true":
            sys.exit(0 if all(p.done for p in progress) else 1)
        console.print("The UI stays up until Ctrl-C.")
        server.wait()
    except KeyboardInterrupt:
        console.print("\nstopped")
    finally:
        _stop(server)


def _fresh(home: Path) -> Path:
    """The demo's own folder, empty. Refuses a folder that holds anything else."""
    mark = home / ".ingest-demo"
    if home.exists():
        if any(home.iterdir()) and not mark.exists():
            raise click.UsageError(
                f"{home} exists and was not made by the demo: name an empty folder with --home"
            )
        shutil.rmtree(home)
    (home / "dagster").mkdir(parents=True)
    mark.touch()
    return home


def _environment(home: Path, live: bool) -> Mapping[str, str]:
    """Embedded defaults under `home`, with the shipped models cut to a demo's size.

    No setting of the user's own gets in: the demo must not write to a ledger that somebody works with.
    """
    _write_models(home / "models", live)
    shutil.copy(Path("dagster.yaml"), home / "dagster" / "dagster.yaml")
    foreign = SETTINGS.keys() - {"AWS_CA_BUNDLE"}  # without it --live may not get through a company's proxy
    environ = {
        **{name: value for name, value in os.environ.items() if name not in foreign},
        "INGEST_HOME": str(home),
        "INGEST_WEATHER_MODELS": str(home / "models"),
        "DAGSTER_HOME": str(home / "dagster"),
        "PYTHONWARNINGS": "ignore",
    }
    if not live:
        environ["INGEST_WEATHER_ENDPOINT"] = (home / "mirror").as_uri()
    if environ.pop("PYTHONDONTWRITEBYTECODE", None):
        # A dozen processes would each compile Dagster and xarray again: 3 of 5 CPU-seconds to start one.
        environ["PYTHONPYCACHEPREFIX"] = str(home / "bytecode")
    return environ


def _write_models(folder: Path, live: bool) -> None:
    folder.mkdir()
    for shipped in sorted((Path(ingest_platform.__file__).parent / "weather" / "models").glob("*.yaml")):
        model = yaml.safe_load(shipped.read_text())
        for horizon in model.get("horizons", []):
            horizon["leads"] = [{"first": DEMO_HOURS[0], "last": DEMO_HOURS[-1]}]
        if live:
            model["retention_hours"] = LIVE_RETENTION_HOURS[model["family"]]
        (folder / shipped.name).write_text(yaml.safe_dump(model, sort_keys=False))


def _mirror(console: Console, home: Path, models: Sequence[Model]) -> Mapping[str, int]:
    started = time.monotonic()
    extent = Extent(leads=dict.fromkeys(("gfs", "hrrr"), DEMO_HOURS))
    with _working(console, "making a mirror of NOAA's buckets: full-size grids, real formats"):
        made = make_mirror(home / "mirror", models, now=datetime.now(UTC), extent=extent)
    size = sum(item.size_bytes for item in made) / 1e6
    console.print(f"mirror of NOAA's buckets: {len(made)} objects, {size:.0f} MB, {_since(started)}")
    return {model.id: sum(item.model == model.id for item in made) for model in models}


def _start_dagster(home: Path, environ: Mapping[str, str], port: int) -> subprocess.Popen[bytes]:
    dg = Path(sys.executable).with_name("dg")
    log = (home / "dagster.log").open("wb")
    command = [str(dg), "dev", "--host", "127.0.0.1", "--port", str(port)]
    # A process group of its own: Ctrl-C must reach the daemon and the web server through _stop only.
    return subprocess.Popen(command, env=dict(environ), stdout=log, stderr=log, start_new_session=True)  # noqa: S603


def _watch(
    console: Console,
    environ: Mapping[str, str],
    models: Sequence[Model],
    expected: Mapping[str, int] | None,
    patience: float,
    server: subprocess.Popen[bytes],
) -> list[Progress]:
    """Look at the ledger until everything is there, nothing moves any more, or Dagster has died."""
    catalog = Catalog.open(Settings.from_environment(environ).catalog_url)
    with catalog, _working(console, "starting Dagster; its sensors find the files by themselves") as tell:
        before, moved = None, time.monotonic()
        while True:
            progress = [_progress(catalog, model, expected) for model in models]
            if "INGEST_SILO_ORGANISMS" in environ:
                imported = genomes.imported(catalog)
                progress.append(Progress(genomes.ORGANISM, imported, imported, genomes.GENOMES))
            if progress != before:
                before, moved = progress, time.monotonic()
            if any(p.known for p in progress):
                tell("ingested  " + "  ".join(str(p) for p in progress))
            if all(p.done for p in progress) or time.monotonic() > moved + patience:
                return progress
            if server.poll() is not None:
                raise click.ClickException(
                    f"Dagster ended with code {server.returncode}; see dagster.log in the demo's folder"
                )
            time.sleep(1)


@contextmanager
def _working(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """A line that shows life: it moves and counts seconds on a terminal, elsewhere each news is a line."""
    if not console.is_terminal:
        told = {what}
        console.print(what)

        def tell(news: str) -> None:
            if news not in told:
                told.add(news)
                console.print(news, soft_wrap=True)

        yield tell
        return
    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Bars(*columns, console=console, transient=True) as bars:
        line = bars.add_task(what)
        yield lambda news: bars.update(line, description=news)


def _progress(catalog: Catalog, model: Model, expected: Mapping[str, int] | None) -> Progress:
    states = catalog.overview(model.source_name).objects
    known = sum(states.values()) - states.get("superseded", 0)
    return Progress(
        model.id, states.get("ingested", 0), known, None if expected is None else expected[model.id]
    )


def _summarise(
    console: Console,
    environ: Mapping[str, str],
    models: Sequence[Model],
    progress: Sequence[Progress],
    port: int,
    seconds: float,
) -> None:
    settings = Settings.from_environment(environ)
    with Catalog.open(settings.catalog_url) as catalog:
        newest = {model.id: _newest(catalog, model) for model in models}
        console.print(_table(catalog, models, progress, newest, seconds))
        found = genomes.imported(catalog)
    console.print(f"UI      http://127.0.0.1:{port}/asset-groups\ndata    {_short(settings.home / 'data')}")
    shown = [(name, partition) for name, partition in newest.items() if partition is not None]
    if shown:
        console.print(f"Python  {_line(settings.home, *shown[0])}", soft_wrap=True)
    if found:
        console.print(f"genomes {found} of {genomes.ORGANISM} in {_short(genomes.output(settings.home))}")
        query = genomes.query_line(_short(Path(sys.executable)), _short(genomes.output(settings.home)))
        console.print(f"Query   {query}", soft_wrap=True)
    missing = [p.name for p in progress if not p.done]
    if missing:
        told = (
            f"not whole yet: {', '.join(missing)}; the UI and {_short(settings.home / 'dagster.log')} say why"
        )
        console.print(told, style="bold red")


def _table(
    catalog: Catalog,
    models: Sequence[Model],
    progress: Sequence[Progress],
    newest: Mapping[str, str | None],
    seconds: float,
) -> Table:
    table = Table(title=f"ingested in {seconds:.0f} s", title_justify="left")
    for column in ("model", "newest partition", "objects", "grids", "MB"):
        table.add_column(column, justify="left" if column in ("model", "newest partition") else "right")
    for model, p in zip(models, progress, strict=False):  # the organism comes last and has no grids
        overview = catalog.overview(model.source_name)
        size = f"{overview.size_bytes / 1e6:.1f}"
        objects = f"{p.ingested}/{p.expected or p.known}"
        table.add_row(model.id, newest[model.id] or "–", objects, str(overview.artifacts), size)
    return table


def _newest(catalog: Catalog, model: Model) -> str | None:
    return max((row.partition for row in catalog.partitions(model.source_name) if row.snapshot), default=None)


def _line(home: Path, model: str, partition: str) -> str:
    """A shell line that opens what was just ingested: no settings but the demo's own folder."""
    program = (
        f'from ingest_platform.weather import open_weather; print(open_weather("{model}", "{partition}"))'
    )
    return f"INGEST_HOME={shlex.quote(_short(home))} {_short(Path(sys.executable))} -c {shlex.quote(program)}"


def _short(path: Path) -> str:
    """Relative where that is shorter: the demo and what it prints are used from the same folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.0f} s"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    main()

"""`make demo`: the platform's main job on embedded defaults, from a bucket listing to a picture in the UI.

Makes a small local mirror of NOAA's buckets (or, with --live, uses the real ones), starts Dagster and
only watches: the sensors find the files by themselves. Needs no server and no account.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import yaml
from rich.console import Console
from rich.table import Table

import ingest_platform
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.demo.mirror import Extent, make_mirror
from ingest_platform.settings import Settings
from ingest_platform.weather.config import load_models
from ingest_platform.weather.model import Kind, Model

# The promise of the first minute: two minutes from the end of set-up to the summary. Making the mirror
# takes part of it; the real buckets add the network.
DEADLINE_SECONDS = 120.0
LIVE_DEADLINE_SECONDS = 900.0
# Three leads of each forecast show the lead axis; a whole GFS cycle is 209 objects.
DEMO_HOURS = range(3)
# Long enough for the latest complete cycle, short enough that the real buckets give minutes of work.
LIVE_RETENTION_HOURS = {"gfs": 12, "hrrr": 3, "goes": 1, "mrms": 1}


@dataclass(frozen=True, slots=True)
class Progress:
    """Objects of one model that reached a final state, of those that are known."""

    model: Model
    ingested: int
    known: int
    expected: int | None  # None: the real buckets, nobody knows before the listing

    @property
    def done(self) -> bool:
        return self.ingested > 0 and self.ingested >= (self.expected or self.known)


@click.command()
@click.option("--live", is_flag=True, help="The real public buckets instead of the local mirror.")
@click.option("--home", type=click.Path(path_type=Path), default=Path(".home/demo"), show_default=True)
def main(live: bool, home: Path) -> None:
    """Ingest four feeds through Dagster and say where they lie and how to open them."""
    console = Console()
    home = _fresh(home.absolute())
    environ = _environment(home, live)
    models = load_models(Settings.from_environment(environ).weather_models)
    started = time.monotonic()
    expected = None if live else _mirror(console, home, models)
    port = _free_port()
    server = _start_dagster(home, environ, port)
    try:
        deadline = started + (LIVE_DEADLINE_SECONDS if live else DEADLINE_SECONDS)
        progress = _watch(console, environ, models, expected, deadline, server)
        _summarise(console, environ, progress, port, time.monotonic() - started)
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
    """Embedded defaults under `home`, with the shipped models cut to a demo's size."""
    _write_models(home / "models", live)
    shutil.copy(Path("dagster.yaml"), home / "dagster" / "dagster.yaml")
    mirror = {} if live else {"INGEST_WEATHER_ENDPOINT": (home / "mirror").as_uri()}
    return {
        **os.environ,
        "INGEST_HOME": str(home),
        "INGEST_WEATHER_MODELS": str(home / "models"),
        "DAGSTER_HOME": str(home / "dagster"),
        "PYTHONWARNINGS": "ignore",
        **mirror,
    }


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
    with console.status("making a mirror of the four buckets (full-size grids, real formats)"):
        made = make_mirror(home / "mirror", models, now=datetime.now(UTC), extent=Extent(leads=dict.fromkeys(("gfs", "hrrr"), DEMO_HOURS)))
    size = sum(item.size_bytes for item in made)
    console.print(f"mirror: {len(made)} objects, {size / 1e6:.0f} MB, in {home / 'mirror'}")
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
    deadline: float,
    server: subprocess.Popen[bytes],
) -> list[Progress]:
    catalog = Catalog.open(Settings.from_environment(environ).catalog_url)
    with catalog, console.status("starting Dagster") as status:
        while True:
            progress = [_progress(catalog, model, expected) for model in models]
            status.update("  ".join(f"{p.model.id} {p.ingested}/{p.expected or p.known}" for p in progress))
            if all(p.done for p in progress) or time.monotonic() > deadline:
                return progress
            if server.poll() is not None:
                raise click.ClickException(
                    f"Dagster ended with code {server.returncode}; see dagster.log in the demo's folder"
                )
            time.sleep(1)


def _progress(catalog: Catalog, model: Model, expected: Mapping[str, int] | None) -> Progress:
    states = catalog.overview(model.source_name).objects
    known = sum(states.values()) - states.get("superseded", 0)
    return Progress(model, states.get("ingested", 0), known, None if expected is None else expected[model.id])


def _summarise(
    console: Console, environ: Mapping[str, str], progress: Sequence[Progress], port: int, seconds: float
) -> None:
    settings = Settings.from_environment(environ)
    table = Table(title=f"ingested in {seconds:.0f} s")
    for column in ("model", "partition", "objects", "grids", "MB", "open it with"):
        table.add_column(column, overflow="fold")
    with Catalog.open(settings.catalog_url) as catalog:
        for p in progress:
            newest = max(
                (row.partition for row in catalog.partitions(p.model.source_name) if row.snapshot),
                default="–",
            )
            overview = catalog.overview(p.model.source_name)
            table.add_row(
                p.model.id,
                newest,
                f"{p.ingested}/{p.expected or p.known}",
                str(overview.artifacts),
                f"{overview.size_bytes / 1e6:.1f}",
                f'open_weather("{p.model.id}", "{newest}")',
            )
    console.print(table)
    console.print(
        f"data    {settings.store_url}\nledger  {settings.catalog_url}\nUI      http://127.0.0.1:{port}"
    )
    first = next((p.model for p in progress if p.model.kind is Kind.FORECAST), progress[0].model)
    console.print(
        f"Python  INGEST_HOME={settings.home} INGEST_WEATHER_MODELS={settings.weather_models} .venv/bin/python -c "
        f"'from ingest_platform.weather import open_weather; print(open_weather(\"{first.id}\", ...))'",
        soft_wrap=True,
    )
    missing = [p.model.id for p in progress if not p.done]
    if missing:
        console.print(
            f"not whole yet: {', '.join(missing)}; `ingest status` and the UI say why", style="bold red"
        )


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

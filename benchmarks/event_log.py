"""How fast Dagster's memory of one radar model grows, and what retention of the history gives back.

`python -m benchmarks.event_log [--runs 12]`, with the tests' servers installed; SQLite and PostgreSQL. Two
ways to ingest MRMS:

- sensor: a run of `ingest_mrms` for each observation time, 720 a day, the real job over a mirror;
- daemon: `ingest run`, which reports one materialization a minute, 1,440 a day, with the same metadata;
  and once more without the full-size picture, the largest part of it.

The mirror's mosaics have a fifth of the real width and height; their picture is as wide as the real one's.
Runs are executed in this process: a queued one adds some events of its launch. SQLite's free pages, which are
used again, do not count.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import dagster as dg
import sqlalchemy as sa
import yaml

from benchmarks.measure import Claim, tell
from ingest_platform.demo import synth
from ingest_platform.operations.history import KEEP, retain
from ingest_platform.weather.config import load_models
from ingest_platform.weather.keys import template
from ingest_platform.weather.model import Model

SHAPE = (700, 1400)  # of 3500 × 7000
RUNS_A_DAY = 24 * 30  # two products every two minutes, both of a time in one run
REPORTS_A_DAY = 24 * 60
GOAL = 0.8  # the latest run and report stay
TELEMETRY_OFF = {"telemetry": {"enabled": False}}


@click.command()
@click.option("--runs", default=12, show_default=True)
def main(runs: int) -> None:
    """Measure and tell, database by database."""
    for name, opened in (("SQLite", _sqlite), ("PostgreSQL", _postgresql)):
        with tempfile.TemporaryDirectory(prefix="bench-history-") as folder:
            Path(folder).chmod(0o755)  # PostgreSQL's own user passes through
            with opened(Path(folder)) as (instance, weigh):
                found = _measure(Path(folder), instance, weigh, runs)
        share = found.pop("share_given_back")
        tell(
            Claim(
                f"Dagster's memory of MRMS on {name}, MB a day; retention gives it back",
                ours=found,
                peer=None,
                ratio=share,
                goal=f"≥ {GOAL} of what {runs} runs and {2 * runs} reports wrote",
                holds=share >= GOAL,
            )
        )


def _measure(
    folder: Path, instance: dg.DagsterInstance, weigh: Callable[[], int], runs: int
) -> dict[str, Any]:
    (model,) = load_models(only=["mrms"])
    os.environ.update(INGEST_HOME=str(folder / "home"), INGEST_WEATHER_ENDPOINT=(folder / "mirror").as_uri())
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    facts = _ingest(folder, instance, model, start)  # brings tables and snapshots that all runs share
    begin = weigh()
    for number in range(1, runs):
        _ingest(folder, instance, model, start + timedelta(minutes=2 * number))
    run = (weigh() - begin) / (runs - 1)
    report = _report(instance, model, facts, runs, weigh)
    without = {name: value for name, value in facts.items() if name != "picture_full"}
    plain = _report(instance, model, without, runs, weigh)
    written = weigh()
    now = datetime.now(UTC) + KEEP + timedelta(seconds=2)
    gone = retain(instance, of_job=lambda name: dg.RunsFilter(job_name=name), now=now)
    return {
        "sensor": round(run * RUNS_A_DAY / 1e6, 1),
        "ingest_run": round(report * REPORTS_A_DAY / 1e6, 1),
        "ingest_run_without_full_picture": round(plain * REPORTS_A_DAY / 1e6, 1),
        "kB_a_run": round(run / 1e3, 1),
        "kB_a_report": round(report / 1e3, 1),
        "kB_a_report_without_full_picture": round(plain / 1e3, 1),
        "ms_to_delete_a_run": round(gone.seconds / gone.runs * 1e3),
        "share_given_back": (written - weigh()) / (written - begin),
    }


def _report(
    instance: dg.DagsterInstance,
    model: Model,
    facts: Mapping[str, dg.MetadataValue[Any]],
    number: int,
    weigh: Callable[[], int],
) -> float:
    """Bytes of one materialization of no run, when so many of them are reported."""
    partition = model.partition_key(datetime.now(UTC))
    for reported in range(number + 1):
        if reported == 1:  # the first one only replaced the asset's latest
            before = weigh()
        instance.report_runless_asset_event(
            dg.AssetMaterialization(["weather", model.id, "grids"], partition=partition, metadata=facts)
        )
    return (weigh() - before) / number


def _ingest(
    folder: Path, instance: dg.DagsterInstance, model: Model, valid: datetime
) -> Mapping[str, dg.MetadataValue[Any]]:
    """One observation time through the real job. The metadata of its materialization."""
    from ingest_platform.definitions import defs

    for parameter in model.parameters:
        source = next(model.sources_at(valid))
        key = template(source.key).render({"product": parameter.product or "", "valid": valid})
        path = folder / "mirror" / source.bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(synth.radar_file(parameter, valid, shape=SHAPE))
    job = defs.resolve_job_def("ingest_mrms")
    done = job.execute_in_process(instance=instance, partition_key=model.partition_key(valid))
    (made,) = done.get_asset_materialization_events()
    return made.step_materialization_data.materialization.metadata


@contextmanager
def _sqlite(folder: Path) -> Iterator[tuple[dg.DagsterInstance, Callable[[], int]]]:
    home = folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(TELEMETRY_OFF))

    def weigh() -> int:
        """Bytes of all its files, printed output included; of databases the pages in use."""
        return sum(_used(path) for path in home.rglob("*") if path.is_file())

    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance, weigh


def _used(path: Path) -> int:
    if not path.name.endswith(".db"):  # the file of the events of no run has no other name
        return 0 if path.name.endswith(("-wal", "-shm")) else path.stat().st_blocks * 512
    with closing(sqlite3.connect(path)) as connection:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


@contextmanager
def _postgresql(folder: Path) -> Iterator[tuple[dg.DagsterInstance, Callable[[], int]]]:
    from ingest_platform_tests.services.postgres import start_postgres
    from ingest_platform_tests.services.processes import stop_all

    home = folder / "dagster"
    home.mkdir()
    try:
        url = sa.make_url(start_postgres(folder))
        where = {"hostname": url.host, "port": url.port, "db_name": url.database}
        login = {"username": url.username, "password": "trusted", "scheme": "postgresql+psycopg2"}
        config = {**TELEMETRY_OFF, "storage": {"postgres": {"postgres_db": {**where, **login}}}}
        (home / "dagster.yaml").write_text(yaml.safe_dump(config))
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")

        def weigh() -> int:
            """Bytes of all tables with their indexes and large values, without the dead rows."""
            with engine.connect() as connection:
                connection.execute(sa.text("VACUUM FULL"))
                size = "SELECT SUM(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
                return int(connection.execute(sa.text(size)).scalar_one())

        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield instance, weigh
        engine.dispose()
    finally:
        stop_all(folder)
        shutil.rmtree(folder / "postgres", ignore_errors=True)


if __name__ == "__main__":
    main()

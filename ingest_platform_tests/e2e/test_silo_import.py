"""`silo-import` as a container runs it, `ingest` with an organisms file: their answers, exit codes, ends."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ingest_platform.silo.served import Index, indexes
from ingest_platform_tests.e2e.dagster_instance import BIN
from ingest_platform_tests.silo_bench import BUILDS, wait_until
from ingest_platform_tests.silo_world import TWELVE, Answer, Loculus, answer, loculus, record, write_database


@dataclass(frozen=True)
class Container:
    """The importer's container: its volumes and its environment."""

    root: Path
    server: Loculus
    environ: Mapping[str, str]

    @property
    def served(self) -> tuple[Index, ...]:
        return indexes(self.root / "preprocessing" / "output")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        return subprocess.run(
            [str(BIN / program), *arguments],
            env=dict(self.environ),
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    binary = tmp_path / "silo"
    binary.write_text(BUILDS)
    binary.chmod(0o755)
    with loculus() as server:
        yield Container(
            tmp_path,
            server,
            {
                "PATH": os.environ["PATH"],
                "INGEST_HOME": str(tmp_path / "state"),
                "BACKEND_BASE_URL": f"{server.url}/",
                "ROOT_DIR": str(tmp_path),
                "PATH_TO_SILO_BINARY": str(binary),
                "PREPROCESSING_CONFIG": str(write_database(tmp_path / "config")),
                "SILO_IMPORT_POLL_INTERVAL_SECONDS": "1",
            },
        )


@pytest.mark.silo_case(1)
def test_once_imports_and_a_restart_costs_neither_download_nor_build(container: Container) -> None:
    """Else each restart of a pod loads all genomes and builds all indexes."""
    container.server.release(answer(TWELVE, '"e1"'))

    first = container.run("silo-import", "--once")
    served = container.served
    again = container.run("silo-import", "--once")

    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert "organism: imported, 12 rows" in first.stdout
    assert again.stdout == ""
    assert len(served) == 1
    assert container.served == served
    assert container.server.requests[-1].headers["if-none-match"] == '"e1"'


@pytest.mark.silo_case(10)
def test_once_ends_with_1_and_says_why(container: Container) -> None:
    """Else a cron job that imports nothing is green."""
    container.server.always(Answer(b"the database is away", 500, framing="length"))

    failed = container.run("silo-import", "--once")

    assert failed.returncode == 1
    assert "answered 500" in failed.stderr
    assert "the database is away" in failed.stderr


def test_wrong_usage_ends_with_2_and_names_each_variable(container: Container) -> None:
    """Else a typo in a chart is a crash loop without a reason."""
    broken = {**container.environ, "BACKEND_BASE_URL": "", "HARD_REFRESH_INTERVAL": "often"}

    refused = Container(container.root, container.server, broken).run("silo-import")

    assert refused.returncode == 2
    assert "BACKEND_BASE_URL" in refused.stderr


def test_the_container_follows_the_backend_until_it_is_told_to_stop(container: Container) -> None:
    """Else new genomes wait for a restart, or a pod that ends leaves a lease for a minute and a half."""
    container.server.release(answer(TWELVE, '"e1"'))
    process = subprocess.Popen(
        [str(BIN / "silo-import")],
        env=dict(container.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: len(container.served) == 1)
        container.server.release(answer([*TWELVE, record(12)], '"e2"'))
        wait_until(lambda: len(container.served) == 2)
    finally:
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=60)

    assert process.returncode == 0, told
    assert "13 rows" in told


@pytest.mark.parametrize("arguments", [["--once"], []])
def test_a_download_under_way_ends_with_the_container(container: Container, arguments: list[str]) -> None:
    """Else each deploy kills an importer: its lease stays, and after three the release is given up."""
    container.server.release(answer([record(n) for n in range(2_000)], '"e1"', drip_seconds=0.05))
    process = subprocess.Popen(
        [str(BIN / "silo-import"), *arguments],
        env=dict(container.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: len(container.server.requests) >= 2)
    finally:
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=20)
    container.server.release(answer(TWELVE, '"e1"'))

    again = container.run("silo-import", "--once")

    assert process.returncode == len(arguments), told
    assert "organism" in told
    assert "holds the organism" not in again.stderr


def test_the_ingest_command_knows_organisms_beside_weather_models(container: Container) -> None:
    """Else an installation with both needs two commands, or loses one of them."""
    organism = {
        "id": "ebola",
        "backend_url": container.server.url,
        "output": "out",
        "preprocessing_config": "config/preprocessing_config.yaml",
        "engine": {"kind": "cli", "binary": "silo"},
    }
    file = container.root / "organisms.yaml"
    file.write_text(yaml.safe_dump({"organisms": [organism]}))
    place = Container(
        container.root,
        container.server,
        {
            "PATH": os.environ["PATH"],
            "INGEST_HOME": str(container.root / "home"),
            "INGEST_SILO_ORGANISMS": str(file),
        },
    )
    place.server.release(answer(TWELVE, '"e1"'))

    done = place.run("ingest", "once", "--models", "ebola", "--json")
    place.server.release(answer(TWELVE[:1], '"few"'))
    dropped = place.run("ingest", "once", "--models", "ebola", "--json")
    still = place.run("ingest", "once", "--models", "ebola", "--json")
    status = place.run("ingest", "status", "--models", "ebola", "--json")
    requeued = place.run("ingest", "requeue", "--models", "ebola")
    accepted = place.run("ingest", "once", "--models", "ebola", "--accept-row-drop", "--json")
    purged = place.run("ingest", "purge", "--json")
    reconciled = place.run("ingest", "reconcile", "--deep", "--json")
    unknown = place.run("ingest", "once", "--models", "ebloa")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["organisms"][0]["rows"] == 12
    assert dropped.returncode == 1, dropped.stderr
    assert dropped.stdout, dropped.stderr
    assert "1 records where the published index has 12" in json.loads(dropped.stdout)["organisms"][0]["error"]
    assert still.returncode == 1, still.stdout
    assert "was given up: RowsLost: ebola: 1 records" in json.loads(still.stdout)["undone"]["ebola"][0]
    (state,) = json.loads(status.stdout)
    assert (state["organism"], state["rows"], state["quarantined"]) == ("ebola", 12, 1)
    assert requeued.stdout == "ebola: 1 objects are due\n"
    assert accepted.returncode == 0, accepted.stdout
    assert json.loads(accepted.stdout)["organisms"][0]["rows"] == 1
    assert (purged.returncode, json.loads(purged.stdout)["partitions"]) == (0, 0)
    assert (reconciled.returncode, json.loads(reconciled.stdout)["well"]) == (0, True)
    assert unknown.returncode == 2
    assert "Organisms: ebola." in unknown.stderr

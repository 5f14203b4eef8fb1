"""The instance files as deployed: real PostgreSQL, a real S3 server, the daemon, the command line."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.instance.config import ConcurrencyConfig

from ingest_platform_tests.services.s3 import S3Server

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Launch and run take 7 s on a quiet machine with two cores; a busy one gets ten times that.
RUN_WITHIN_SECONDS = 90

# A code location of the test's own: what is shown here is the instance, not the platform's assets.
LOCATION = """
import dagster as dg

@dg.op
def greet() -> None:
    print("greetings from the run")

@dg.job(executor_def=dg.in_process_executor)
def greeting():
    greet()

defs = dg.Definitions(jobs=[greeting])
"""


@pytest.fixture
def production(
    tmp_path: Path, fresh_database: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """DAGSTER_HOME of a production instance, its environment set, a workspace with one small job in it."""
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(REPOSITORY / "deploy/dagster.yaml", home)
    (home / "location.py").write_text(LOCATION)
    (home / "workspace.yaml").write_text("load_from: [{python_file: location.py}]")
    database = sa.make_url(fresh_database)
    environ = {
        "DAGSTER_HOME": str(home),
        "DAGSTER_PG_HOST": str(database.host),
        "DAGSTER_PG_PORT": str(database.port),
        "DAGSTER_PG_USERNAME": str(database.username),
        "DAGSTER_PG_PASSWORD": database.password or "trusted",
        "DAGSTER_PG_DB": str(database.database),
        "S3_LOG_BUCKET": s3_server.fresh_bucket(),
        **s3_server.environment(),
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return home


@pytest.fixture
def daemon(production: Path) -> Iterator[None]:
    """The daemon of the production instance, with its children in a process group of their own."""
    with (production / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "dagster-daemon", "run", "-w", "workspace.yaml"],
            cwd=production,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    yield
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_launched_job_runs_on_postgres_and_its_output_lies_in_the_bucket(
    production: Path, daemon: None, s3_server: S3Server
) -> None:
    """Else the deployed files are a promise nobody tried: runs that stay queued, output that is gone."""
    run_id = str(uuid.uuid4())

    launch = [
        str(BIN / "dagster"),
        "job",
        "launch",
        "-w",
        "workspace.yaml",
        "-j",
        "greeting",
        "--run-id",
        run_id,
    ]
    subprocess.run(launch, cwd=production, check=True, capture_output=True)

    with dg.DagsterInstance.from_config(str(production)) as instance:
        assert finished(instance, run_id) is dg.DagsterRunStatus.SUCCESS, (
            production / "daemon.log"
        ).read_text()
    assert "greetings from the run" in printed(s3_server, os.environ["S3_LOG_BUCKET"], run_id)


@pytest.mark.parametrize("file", ["dagster.yaml", "deploy/dagster.yaml"])
def test_pools_count_whole_runs(file: str, production: Path) -> None:
    """Else a killed step keeps its slot, and a model stands still until somebody frees it by hand."""
    shutil.copy(REPOSITORY / file, production / "dagster.yaml")

    with dg.DagsterInstance.from_config(str(production)) as instance:
        concurrency: ConcurrencyConfig = instance.get_concurrency_config()
        pools = concurrency.pool_config

    assert pools.pool_granularity is not None
    assert (pools.pool_granularity.value, pools.default_pool_limit) == ("run", 1)


def finished(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    """The run's last status, once it is final or the time is over."""
    deadline = time.monotonic() + RUN_WITHIN_SECONDS
    while True:
        run = instance.get_run_by_id(run_id)
        assert run is not None, f"run {run_id}: `dagster job launch` said 0 and stored nothing"
        if run.is_finished or time.monotonic() > deadline:
            return run.status
        time.sleep(0.25)


def printed(server: S3Server, bucket: str, run_id: str) -> str:
    """What the run wrote to standard output, as it lies in the bucket."""
    client = server.client()
    listing = client.list_objects_v2(Bucket=bucket, Prefix="compute-logs/").get("Contents", [])
    keys = [entry["Key"] for entry in listing if run_id in entry["Key"] and entry["Key"].endswith(".out")]
    return "".join(client.get_object(Bucket=bucket, Key=key)["Body"].read().decode() for key in keys)

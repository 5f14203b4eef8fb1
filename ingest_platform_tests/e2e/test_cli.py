"""The `ingest` command as cron and people call it: its answers, its exit codes, its end."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from ingest_platform.weather.read import open_weather
from ingest_platform_tests.e2e.dagster_instance import BIN, call
from ingest_platform_tests.e2e.place import REPOSITORY, Place, buckets_on, long_ago, recently
from ingest_platform_tests.services.s3 import S3Server

# Half a second of work; a machine with two busy cores needs many times that.
VISIBLE_WITHIN_SECONDS = 60
# Who knows nobody's certificates.
STRANGER = {"AWS_CA_BUNDLE": "", "SSL_CERT_FILE": "/dev/null"}


def test_once_ingests_what_is_due_and_says_what(place: Place) -> None:
    """Exit code 0 is a promise: whatever was due is stored."""
    published = place.publish("mrms")

    done = call(place, "ingest", "once", "--models", "mrms", "--json")

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    [report] = answer["reports"]
    assert answer["pending"] == {"mrms": 0}
    assert report["partition"] == place.partition(published[0])
    assert (report["published"], report["grids"], report["errors"]) == (len(published), len(published), [])
    live = open_weather("mrms", report["partition"], environ=place.environ)
    assert live.reflectivity_composite.sizes["time_reflectivity_composite"] == 2


def test_once_again_finds_nothing_and_is_content(place: Place) -> None:
    """Cron calls it every minute: no work is no failure."""
    place.publish("mrms")
    call(place, "ingest", "once", "--models", "mrms", check=True)

    again = call(place, "ingest", "once", "--models", "mrms", "--json")

    assert again.returncode == 0
    assert json.loads(again.stdout)["reports"] == []


def test_once_ends_with_1_and_says_why_when_an_object_is_damaged(place: Place) -> None:
    """Else a wrapper script goes on as if all were there."""
    damaged, *_ = place.publish("mrms")
    damaged.path.write_bytes(damaged.path.read_bytes()[:-100])

    done = call(place, "ingest", "once", "--models", "mrms")

    assert done.returncode == 1
    assert damaged.key.rsplit("/", 1)[-1] in done.stderr
    status = json.loads(call(place, "ingest", "status", "--models", "mrms", "--json").stdout)
    assert damaged.key in status[0]["last_errors"][0]


@pytest.mark.parametrize(
    ("models", "settings", "told"),
    [
        ("mrsm", {}, "mrsm"),
        ("mrms", {"PARALLEL_DOWNLOADS": "many"}, "PARALLEL_DOWNLOADS='many'"),
        ("mrms", {"INGEST_STORE_URL": "ftp://somewhere"}, "INGEST_STORE_URL"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_it(
    models: str, settings: dict[str, str], told: str, place: Place
) -> None:
    """A typo must not look like a bucket without files."""
    wrong = call(place, "ingest", "once", "--models", models, environ=settings)

    assert wrong.returncode == 2
    assert told in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_the_first_call_needs_no_folder(place: Place, tmp_path: Path) -> None:
    """Who has just installed it has no folder yet, and should not need to make one."""
    place.publish("mrms")

    done = call(place, "ingest", "once", "--models", "mrms", environ={"INGEST_HOME": str(tmp_path / "a/b")})

    assert done.returncode == 0, done.stderr


def test_a_store_of_another_ledger_is_refused_in_a_sentence(place: Place) -> None:
    """Two ledgers over one store would purge each other's data; a traceback would hide why it stopped."""
    place.publish("mrms")
    (place.home / "data").mkdir()
    (place.home / "data" / "ledger-id").write_text("another-ledger")

    refused = call(place, "ingest", "once", "--models", "mrms")

    assert refused.returncode == 1
    assert "another-ledger" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_now_moves_discovery_to_another_day(place: Place) -> None:
    """A gap of last month is filled by naming its time, not by changing the settings."""
    [made, *_] = place.publish("mrms", now=long_ago())
    assert json.loads(call(place, "ingest", "once", "--models", "mrms", "--json").stdout)["reports"] == []

    then = f"{long_ago() + timedelta(minutes=20):%Y-%m-%dT%H:%M}"
    done = call(place, "ingest", "once", "--models", "mrms", "--json", "--now", then)

    assert done.returncode == 0, done.stderr
    assert [r["partition"] for r in json.loads(done.stdout)["reports"]] == [place.partition(made)]


def test_status_tells_a_machine_and_a_person(place: Place) -> None:
    """The first thing that an operator asks, by day in a script, by night on a terminal."""
    [made, *_] = place.publish("mrms")
    call(place, "ingest", "once", "--models", "mrms", check=True)

    told = json.loads(call(place, "ingest", "status", "--json").stdout)
    table = call(place, "ingest", "status", environ={"COLUMNS": "140"}).stdout

    states = {state.pop("model"): state for state in told}
    assert set(states) == {"gfs", "hrrr", "goes_east", "goes_west", "mrms"}
    assert states["gfs"]["last_success"] is None
    mrms = states["mrms"]
    assert set(mrms) == {
        "last_success",
        "lag_seconds",
        "next_poll",
        "completeness",
        "waiting",
        "quarantined",
        "last_errors",
    }
    assert mrms["completeness"].startswith(place.partition(made))
    assert 0 < mrms["lag_seconds"] < 3 * 3600
    assert (mrms["waiting"], mrms["quarantined"], mrms["last_errors"]) == (0, 0, [])
    for word in ("model", "last success", "next poll", "quarantine", "mrms", "goes_west", "never"):
        assert word in table


def test_run_makes_a_new_file_visible_and_ends_on_sigterm(place: Place) -> None:
    """Radar that appears is on the map within seconds, Dagster shows it, and a supervisor can end it."""
    # Else this process and that one would make Dagster's tables at the same moment.
    assert materialized(place, "never") is None
    with following(place) as process:
        [made, *_] = place.publish("mrms", now=recently())
        partition = place.partition(made)
        told = until(lambda: materialized(place, partition), process)

        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=VISIBLE_WITHIN_SECONDS)

    assert process.returncode == 0, errors
    assert f"mrms {partition}:" in output
    assert open_weather("mrms", partition, environ=place.environ).sizes
    assert {"picture", "grids", "completeness"} <= set(told.metadata)


def test_once_over_https_trusts_the_certificate_it_is_given(place: Place, s3_https_server: S3Server) -> None:
    """Stores inside companies have certificates of their own: AWS_CA_BUNDLE must reach every client."""
    published = place.publish("mrms")
    secure = place.with_settings(
        INGEST_WEATHER_ENDPOINT=s3_https_server.endpoint,
        INGEST_STORE_URL=f"s3://{s3_https_server.fresh_bucket()}/weather",
        SSL_CERT_FILE=str(s3_https_server.ca_path),  # Icechunk's own name for it
        **s3_https_server.environment(),
    )
    once = ("once", "--models", "mrms", "--json")

    with buckets_on(s3_https_server, secure):
        refused = call(secure, "ingest", *once, environ={**STRANGER, "MAX_RETRIES": "0"})
        done = call(secure, "ingest", *once)

    assert refused.returncode == 1, refused.stdout
    assert done.returncode == 0, done.stderr
    [report] = json.loads(done.stdout)["reports"]
    assert report["published"] == len(published)
    # A process of its own: Icechunk reads the certificates once, before its first connection.
    reading = (
        f"from ingest_platform.weather import open_weather as o; print(o('mrms', '{report['partition']}'))"
    )
    assert "reflectivity_composite" in call(secure, "python", "-c", reading, check=True).stdout


@contextmanager
def following(place: Place) -> Iterator[subprocess.Popen[str]]:
    """`ingest run`, ended at the latest with the block."""
    command = [str(BIN / "ingest"), "run", "--models", "mrms", "--poll-interval", "0.5"]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=dict(place.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until[T](look: Callable[[], T | None], process: subprocess.Popen[str]) -> T:
    deadline = time.monotonic() + VISIBLE_WITHIN_SECONDS
    while (found := look()) is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"not visible within {VISIBLE_WITHIN_SECONDS} s"
        time.sleep(0.25)
    return found


def materialized(place: Place, partition: str) -> dg.AssetMaterialization | None:
    """What Dagster was told about the partition."""
    with dg.DagsterInstance.from_config(place.environ["DAGSTER_HOME"]) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["weather", "mrms", "grids"]))
    told = None if event is None else event.asset_materialization
    return told if told is not None and told.partition == partition else None

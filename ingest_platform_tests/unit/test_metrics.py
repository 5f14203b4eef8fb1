"""What Prometheus gets, and that documentation, alerts and dashboard speak of the same metrics."""

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from ingest_platform.operations import results
from ingest_platform.operations.metrics import render
from ingest_platform.silo.checks import UNHEEDED_POLLS
from ingest_platform_tests.silo_station import new_station
from ingest_platform_tests.silo_world import TWELVE, answer
from ingest_platform_tests.status_world import NOW, StatusWorld, busy_day, models

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana/ingest.json"
GFS = "weather.gfs"
PAGE = ROOT / "docs/metrics.md"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StatusWorld]:
    world = busy_day(tmp_path_factory.mktemp("busy"))
    leave_marked(world)
    results.keep_purge(world.catalog, GFS, at=NOW, refused=1, unfinished=0)
    results.keep_purge(world.catalog, "weather.hrrr", at=NOW - timedelta(hours=6), refused=1, unfinished=0)
    results.keep_reconcile(world.catalog, at=NOW, orphans=2, lost=1, troubles=0, message="2 orphans")
    yield world
    world.close()


@pytest.fixture(scope="module")
def of_organism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The text after one import."""
    with new_station(tmp_path_factory.mktemp("organism")) as station:
        station.server.release(answer(TWELVE))
        station.round()
        yield render(station.catalog, [], [station.organism], now=station.at).decode()


def leave_marked(world: StatusWorld) -> None:
    """GFS' oldest cycle was marked by a purge that could not delete it."""
    ended = NOW - timedelta(hours=12)
    assert len(world.catalog.expire(GFS, cutoff=ended, keep_latest=0, owner="purge", limit=1)) == 1


def scrape(world: StatusWorld) -> dict[str, Metric]:
    """Metric families by the name that they bear in the text; counters have their suffix there."""
    families = text_string_to_metric_families(text(world))
    return {f"{f.name}_total" if f.type == "counter" else f.name: f for f in families}


def text(world: StatusWorld) -> str:
    return render(world.catalog, list(models().values()), now=world.at).decode()


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    (found,) = (
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )
    return float(found)


@pytest.mark.case(35)
def test_the_five_metrics_of_the_request_have_their_names_types_and_labels(busy: StatusWorld) -> None:
    """Dashboards that were made for them must work unchanged."""
    families = scrape(busy)

    found = {
        name: (families[name].type, {label for s in families[name].samples for label in s.labels} - {"le"})
        for name in (
            "ingestion_runs_total",
            "files_ingested_total",
            "ingestion_duration_seconds",
            "purge_files_deleted_total",
            "purge_bytes_freed_total",
        )
    }

    assert found == {
        "ingestion_runs_total": ("counter", {"model", "status"}),
        "files_ingested_total": ("counter", {"model"}),
        "ingestion_duration_seconds": ("histogram", {"model"}),
        "purge_files_deleted_total": ("counter", set()),
        "purge_bytes_freed_total": ("counter", set()),
    }


def test_a_ledger_that_never_ran_shows_zeros_and_no_times(tmp_path: Path) -> None:
    """rate() must see the first failure; a lag of 0 would be a lie."""
    world = StatusWorld(f"sqlite:///{tmp_path / 'ledger.db'}")

    families = scrape(world)
    world.close()

    assert value(families, "ingestion_runs_total", model="gfs", status="failure") == 0
    assert value(families, "messages_rejected_total", model="mrms", reason="decode") == 0
    assert value(families, "publish_to_visible_seconds_count", model="mrms") == 0
    for name in ("ingest_lag_seconds", "ingest_last_success_timestamp_seconds", "orphans"):
        assert families[name].samples == [], name


@pytest.mark.case(35)
def test_a_busy_day_is_told_as_it_was(busy: StatusWorld) -> None:
    """Else alerts and people decide on numbers that mean something else."""
    families = scrape(busy)

    assert value(families, "ingest_lag_seconds", model="mrms") == 133
    assert value(families, "ingest_lag_seconds", model="gfs") == 6 * 3600 + 20 * 60 + 30
    assert value(families, "ingest_queue_depth", model="hrrr", state="quarantined") == 2
    assert value(families, "ingest_queue_depth", model="hrrr", state="waiting") == 2
    assert value(families, "ingest_queue_depth", model="hrrr", state="due") == 0
    assert value(families, "ingestion_runs_total", model="gfs", status="failure") == 1
    assert value(families, "ingestion_runs_total", model="gfs", status="postponed") == 1
    assert value(families, "ingestion_runs_total", model="gfs", status="partial") == 1
    assert value(families, "ingestion_runs_total", model="gfs", status="success") == 4
    assert value(families, "ingest_attempts_total", model="gfs", outcome="failed") == 1
    assert value(families, "messages_rejected_total", model="gfs", reason="framing") == 1
    assert value(families, "publish_to_visible_seconds_count", model="mrms") == value(
        families, "files_ingested_total", model="mrms"
    )
    assert value(families, "publish_to_visible_seconds_bucket", model="mrms", le="5") == 0
    assert value(families, "orphans", kind="unnamed") == 2
    assert value(families, "orphans", kind="lost") == 1
    assert value(families, "purge_partitions_left", model="gfs", kind="refused") == 1
    assert value(families, "ingest_last_purge_timestamp_seconds", model="gfs") == NOW.timestamp()
    assert value(families, "operation_last_run_timestamp_seconds", operation="purge") == NOW.timestamp()


def test_what_a_purge_left_is_told_no_longer_than_it_is_there(busy: StatusWorld) -> None:
    """Else the alarm goes on after a person has mended it, until the next purge in six hours."""
    assert value(scrape(busy), "purge_partitions_left", model="hrrr", kind="refused") == 0


def test_the_buckets_of_every_histogram_add_up(busy: StatusWorld) -> None:
    """A histogram whose buckets shrink gives percentiles out of nothing."""
    for family in scrape(busy).values():
        if family.type != "histogram":
            continue
        for model in models():
            samples = [s for s in family.samples if s.labels.get("model") == model]
            buckets = [(float(s.labels["le"]), s.value) for s in samples if "le" in s.labels]
            (count,) = (s.value for s in samples if s.name.endswith("_count"))
            assert [v for _, v in sorted(buckets)] == sorted(v for _, v in buckets)
            assert max(buckets)[1] == count > 0


def test_a_model_that_was_removed_keeps_its_counters(busy: StatusWorld) -> None:
    """Else a sum over all models goes backwards when somebody edits a YAML file; or its data is forgotten."""
    without = [model for name, model in models().items() if name != "mrms"]

    shown = render(busy.catalog, without, now=NOW).decode()

    assert re.search(r'^files_ingested_total\{model="mrms"\} [1-9]', shown, re.MULTILINE)
    assert 'ingest_partitions{model="mrms",state="open"} 6.0' in shown


def test_promtool_finds_nothing_to_say_about_the_text(
    busy: StatusWorld, of_organism: str, promtool_path: Path
) -> None:
    """What it warns of, Prometheus takes wrongly or not at all."""
    for shown in (text(busy), of_organism):
        checked = subprocess.run(
            [promtool_path, "check", "metrics"], input=shown, capture_output=True, text=True
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_page_lists_exactly_the_metrics_that_there_are(busy: StatusWorld) -> None:
    """Else a user looks for a metric that is gone, or never hears of one."""
    table = re.findall(r"^\| `([a-z_]+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(table) == sorted((name, family.type) for name, family in scrape(busy).items())


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=lambda file: file.name)
def test_alerts_and_dashboard_ask_only_for_metrics_that_there_are(
    file: Path, busy: StatusWorld, of_organism: str
) -> None:
    """An expression over a name that does not exist is silent for ever."""
    there = {sample.name for family in scrape(busy).values() for sample in family.samples} | {"up"}
    there |= {line.partition("{")[0] for line in of_organism.splitlines() if "organism=" in line}
    there |= {"source_http_requests_total", "ingest_oldest_due_seconds"}  # no sample before the first

    asked = {name for expression in expressions(file) for name in metrics_in(expression)}

    assert asked
    assert asked <= there


def test_the_dashboard_shows_every_metric_of_the_request_and_the_lag(busy: StatusWorld) -> None:
    """Else it is a picture of something else."""
    shown = {name for expression in expressions(DASHBOARD) for name in metrics_in(expression)}

    assert shown >= {
        "ingestion_runs_total",
        "files_ingested_total",
        "ingestion_duration_seconds_bucket",
        "purge_files_deleted_total",
        "purge_bytes_freed_total",
        "publish_to_visible_seconds_bucket",
        "ingest_lag_seconds",
        "ingest_queue_depth",
    }


def test_promtool_can_parse_every_expression_of_the_dashboard(promtool_path: Path, tmp_path: Path) -> None:
    """Else a panel shows an error in the night in which it is needed."""
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions(DASHBOARD))
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    checked = subprocess.run([promtool_path, "check", "rules", file], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


def test_the_rules_are_valid_and_fire_when_they_must(promtool_path: Path) -> None:
    """A usual day is silent and each trouble raises its own alert, says the file beside them."""
    for verb, file in (("check", "alerts.yaml"), ("test", "alerts.test.yaml")):
        command = [str(promtool_path), verb, "rules", file]
        done = subprocess.run(command, capture_output=True, text=True, cwd=RULES.parent)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_alert_over_etags_waits_as_long_as_the_check() -> None:
    """Two answers to one question are an argument at night."""
    assert f"silo_polls_unheeded >= {UNHEEDED_POLLS}" in expressions(RULES)


def test_every_alert_fires_in_the_tests_of_the_rules() -> None:
    """A rule that never fired in a test may never fire at all."""
    tested = RULES.with_name("alerts.test.yaml").read_text(encoding="utf-8")

    assert set(re.findall(r'alertname="(\w+)"', tested)) == {rule["alert"] for rule in alerts()}


def test_every_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    """Who is woken by it must not have to guess."""
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for alert in group["rules"]:
            notes = alert["annotations"]
            assert notes["summary"]
            assert notes["description"]
            assert alert["labels"]["severity"] in ("warning", "critical")
            page, _, anchor = notes["runbook_url"].partition("#")
            assert anchor in anchors(ROOT / page), f"{alert['alert']}: {page} has no section #{anchor}"


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def alerts() -> list[dict[str, str]]:
    return [
        rule
        for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def expressions(file: Path) -> list[str]:
    """The PromQL in the rules, or in the dashboard with its variables filled in."""
    if file == RULES:
        return [rule["expr"] for rule in alerts()]
    panels = json.loads(file.read_text(encoding="utf-8"))["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [
        e.replace("$__rate_interval", "5m").replace("$model", ".*").replace("$organism", ".*") for e in found
    ]


def metrics_in(expression: str) -> set[str]:
    """The names in an expression that are neither labels, functions nor operators."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", expression)
    bare = re.sub(r"\b(by|on|without|ignoring) ?\([^)]*\)", " ", bare)
    names = re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()", bare)
    return {name for name in names if name not in ("unless", "and", "or", "bool", "group_left")}

"""Counters after kill -9: what was committed is counted once, what was not is not, and nothing goes back."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ingest_platform.operations.metrics import render
from ingest_platform_tests.crash.weather_scene import Scene
from ingest_platform_tests.status_world import NOW, models

HRRR = models()["hrrr"]


def counters(scene: Scene) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scrape by a new process shows."""
    with scene.opened() as (catalog, _):
        text = render(catalog, [HRRR], now=NOW).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


@pytest.mark.case(35)
@pytest.mark.parametrize("point", ["after chunks", "commit: before COMMIT", "commit: after COMMIT"])
def test_a_killed_worker_takes_no_count_back_and_counts_nothing_twice(point: str, grown: Scene) -> None:
    """Else the rates of a day with power cuts are fiction."""
    before = counters(grown)
    grown.kill(point)
    between = counters(grown)
    grown.rescue()
    after = counters(grown)

    files = ("files_ingested_total", (("model", "hrrr"),))
    visible = ("publish_to_visible_seconds_count", (("model", "hrrr"),))
    assert all(before[name] <= between.get(name, -1) for name in before)
    assert all(between[name] <= after.get(name, -1) for name in between)
    landed = point == "commit: after COMMIT"
    assert between[files] - before[files] == (2 if landed else 0)
    # One lead was replaced, one is new: two more, whoever committed them.
    assert after[files] - before[files] == 2
    assert after[visible] - before[visible] == 2

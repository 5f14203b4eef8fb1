"""What a person sees and clicks, in a real browser on the real pages."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from ingest_platform_tests.e2e.conftest import Platform

# A page of Dagster's asks its server several times; a busy machine with two cores needs its time.
PAGE_WITHIN_MS = 60_000
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="module")
def page(chromium_path: Path) -> Iterator[Page]:
    """A window as large as a laptop's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM_OPTIONS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(PAGE_WITHIN_MS)
        expect.set_options(timeout=PAGE_WITHIN_MS)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def ingested(platform: Platform) -> Platform:
    """The platform, once its sensors found every model's files and its runs told Dagster so."""
    with platform.dagster.instance() as instance:

        def shown(model: str) -> bool:
            told = instance.get_materialized_partitions(dg.AssetKey(["weather", model, "grids"]))
            return platform.recent[model] in told

        for model in platform.recent:
            platform.dagster.wait_for(partial(shown, model), f"{model} ingested by its sensor")
    return platform


def test_the_lineage_page_shows_the_four_families(platform: Platform, page: Page) -> None:
    """Who opens the UI for the first time must see what the platform holds."""
    page.goto(f"{platform.dagster.url}/asset-groups")

    for family in ("gfs", "hrrr", "goes", "mrms"):
        expect(page.get_by_text(family, exact=True).first).to_be_visible()


@pytest.mark.parametrize("model", ["mrms", "gfs", "hrrr", "goes_east", "goes_west"])
def test_an_ingested_partition_shows_its_map_and_its_counts(
    ingested: Platform, page: Page, model: str, tmp_path: Path
) -> None:
    """Without them nobody sees by a glance whether an ingest brought weather or rubbish."""
    partition = ingested.recent[model]
    with ingested.place.catalog() as catalog:
        objects = [row for row in catalog.objects(f"weather.{model}", partition) if row.state == "ingested"]
        live = catalog.published(f"weather.{model}", partition)
    assert live is not None

    page.goto(f"{ingested.dagster.url}/assets/weather/{model}/grids?view=events&partition={partition}")

    image = page.locator('img[src^="data:image/"]').first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.complete && image.naturalWidth") > 0
    for name, count in {"objects": len(objects), "grids": len(live.artifacts)}.items():
        row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
        expect(row).to_contain_text(str(count))
    page.screenshot(path=tmp_path / "events.png", full_page=True)


def test_a_click_on_materialize_ingests_the_partition(platform: Platform, page: Page) -> None:
    """The button is how most people start a backfill."""
    partition = platform.old[1]["mrms"]
    page.goto(f"{platform.dagster.url}/assets/weather/mrms/grids?view=partitions&partition={partition}")

    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Launch 1 run").click()

    expect(page.get_by_text("Launched run")).to_be_visible()
    with platform.dagster.instance() as instance:
        run = platform.dagster.wait_for(
            lambda: next(
                iter(instance.get_runs(dg.RunsFilter(tags={"dagster/partition": partition}), limit=1)), None
            ),
            "the run of the click",
        )
    assert platform.dagster.finished(run.run_id).status is dg.DagsterRunStatus.SUCCESS
    with platform.place.catalog() as catalog:
        assert catalog.published("weather.mrms", partition) is not None

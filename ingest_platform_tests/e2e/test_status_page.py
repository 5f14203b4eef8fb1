"""The status page as people open it: in a real browser, on a phone, without scripts, by day and by night."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ingest_platform.operations.server import listening
from ingest_platform.silo.model import Organism
from ingest_platform_tests.e2e.place import Place
from ingest_platform_tests.e2e.test_ui import CHROMIUM_OPTIONS
from ingest_platform_tests.silo_station import new_station
from ingest_platform_tests.silo_world import TWELVE, answer
from ingest_platform_tests.status_world import NOW, StatusWorld, lead_of, live_a_day, models

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
GFS = models()["gfs"]
ORGANISMS = """
organisms:
  - {id: ebola, backend_url: "http://127.0.0.1:9/ebola", output: out, engine: {kind: sentinel, exchange: in}}
"""


@pytest.fixture(scope="module")
def ledger_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('busy') / 'ledger.db'}"


@pytest.fixture(scope="module")
def organism(ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Organism]:
    """Imported, and its next release given up."""
    folder, environ = tmp_path_factory.mktemp("genomes"), {"INGEST_CATALOG_URL": ledger_url}
    with new_station(folder, environ=environ, id="ebola-zaire") as station:
        station.at = NOW - timedelta(minutes=10)
        station.server.release(answer(TWELVE, '"e1"'))
        station.round()
        station.server.release(answer(TWELVE[:1], '"few"'))
        station.round()
        yield station.organism


@pytest.fixture(scope="module")
def world(ledger_url: str, organism: Organism) -> Iterator[StatusWorld]:
    """The genomes came first: their importer finds the store empty and takes it."""
    world = StatusWorld(ledger_url)
    live_a_day(world)
    cycle = NOW.replace(hour=6, minute=0, second=0)
    world.see(GFS, lead_of(GFS, cycle, 120))
    world.work(GFS, cycle, error=HOSTILE)
    yield world
    world.close()


@pytest.fixture(scope="module")
def address(world: StatusWorld, organism: Organism) -> Iterator[str]:
    with listening(
        world.url,
        list(models().values()),
        [organism],
        port=0,
        dagster_url="http://127.0.0.1:3000",
        clock=lambda: NOW,
    ) as address:
        yield address


@pytest.fixture(scope="module")
def browser(chromium_path: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900, "light", True), (1280, 900, "dark", True), (390, 844, "light", False)])
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    """A laptop by day and by night, and a phone whose scripts are off."""
    width, height, scheme, scripts = request.param
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=scripts
    )
    page = context.new_page()
    page.goto(address)
    yield page
    context.close()


def test_everything_is_there_and_nothing_sticks_out(page: Page, tmp_path: Path) -> None:
    """A page that one has to scroll sideways on a phone is not read at night."""
    expect(page.get_by_role("heading", level=1)).to_have_text("Ingest status")
    for model in models().values():
        expect(page.locator(f"#{model.id}").get_by_role("heading")).to_have_text(model.title)
    expect(page.locator("#genome-ebola-zaire").get_by_role("heading")).to_have_text("ebola-zaire")
    expect(page.get_by_text("ingest requeue --models ebola-zaire")).to_be_visible()
    expect(page.get_by_text("missing: f007, f045")).to_be_visible()
    expect(page.get_by_text("ingest requeue --models gfs --partition 2026-11-20T06")).to_be_visible()

    page.screenshot(path=tmp_path / "status.png", full_page=True)
    viewport = page.viewport_size
    assert viewport is not None
    box = page.locator("main").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= viewport["width"]
    for card in page.locator(".card, .cells").all():
        inner = card.bounding_box()
        assert inner is not None
        assert inner["x"] + inner["width"] <= viewport["width"]


def test_the_209_leads_of_a_gfs_cycle_stay_apart(page: Page) -> None:
    """A cell that cannot be told from its neighbour tells nothing."""
    cells = page.locator("#gfs .row").nth(1).locator("i")
    boxes = cells.evaluate_all(
        "cells => cells.map(cell => [cell.className, cell.getBoundingClientRect().toJSON()])"
    )

    assert len(boxes) == 209
    assert all(box["width"] >= 6 and box["height"] >= 10 for _, box in boxes)
    assert len({(round(box["x"]), round(box["y"])) for _, box in boxes}) == 209
    assert {mark for mark, _ in boxes} == {"present", "missing"}


def test_the_signs_differ_in_shape_and_not_in_colour_alone(page: Page) -> None:
    """One man in twelve cannot tell the red from the green."""
    signs = {}
    for sign in page.locator(".legend i").all():
        signs[sign.get_attribute("class")] = outline(sign.screenshot())

    assert set(signs) == {"present", "partial", "waiting", "quarantined", "missing", "expected"}
    assert len(set(signs.values())) == 6


def outline(picture: bytes) -> bytes:
    """Where there is ink, whatever its colour: what differs from the card or paper beneath."""
    with Image.open(BytesIO(picture)) as image:
        grey = image.convert("L")
    levels = grey.histogram()
    # The darkest and the lightest of a sign are its ink and its paper, in either order.
    shades = [level for level, number in enumerate(levels) if number]
    middle = (shades[0] + shades[-1]) // 2
    return grey.point([255 * (level > middle) for level in range(256)]).tobytes()


def test_hostile_error_texts_are_shown_and_not_run(page: Page) -> None:
    """Error texts quote what a source sent."""
    expect(page.get_by_text("onerror=").first).to_be_visible()

    assert page.title() == "Ingest status"
    assert page.locator("img, script").count() == 0


def test_the_links_lead_to_the_asset_its_runs_and_its_partition(page: Page) -> None:
    """From the gap to its run in one click."""
    card = page.locator("#gfs")

    assert card.get_by_role("link", name="asset").get_attribute("href") == (
        "http://127.0.0.1:3000/assets/weather/gfs/grids"
    )
    runs = card.get_by_role("link", name="runs").get_attribute("href")
    assert runs == "http://127.0.0.1:3000/runs?q[0]=job%3Aingest_gfs"
    partition = card.get_by_role("link", name="2026-11-20T00").get_attribute("href")
    assert partition is not None
    assert partition.endswith("/grids?view=partitions&partition=2026-11-20T00")


@pytest.mark.case(35)
def test_the_command_serves_while_nothing_runs_and_ends_with_sigterm(place: Place) -> None:
    """A supervisor that must kill it after its patience delays every deployment."""
    command = [str(Path(sys.executable).with_name("ingest")), "metrics", "--port", "0"]
    organisms = place.home / "organisms.yaml"
    organisms.write_text(ORGANISMS, encoding="utf-8")
    environ = {**place.environ, "INGEST_SILO_ORGANISMS": str(organisms)}
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split("metrics ")[1].strip()
        with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - our own address
            text = answer.read().decode()
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    assert 'ingestion_runs_total{model="gfs",status="success"} 0.0' in text
    assert 'silo_imports_total{organism="ebola",status="failed"} 0.0' in text
    assert status == 0

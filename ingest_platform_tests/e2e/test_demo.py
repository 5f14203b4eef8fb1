"""The first two minutes of every new user: one command, a table, a page and a line to go on with."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from ingest_platform.demo import __main__ as demo
from ingest_platform.demo.genomes import GENOMES
from ingest_platform_tests.e2e.dagster_instance import BIN
from ingest_platform_tests.e2e.place import REPOSITORY

# 50 s on two quiet cores, twice as long beside other tests, four times on a machine that swaps.
DEMO_WITHIN_SECONDS = 280


@pytest.mark.timeout(DEMO_WITHIN_SECONDS + 60)
def test_the_demo_ends_with_data_that_its_own_line_opens(tmp_path: Path) -> None:
    """The one command of the README: if it fails, nobody reads the second paragraph."""
    home = tmp_path / "demo"
    # What a user has set for real work must not reach the demo, nor the demo that.
    environ = {
        **os.environ,
        "CI": "true",
        "COLUMNS": "80",
        "INGEST_CATALOG_URL": f"sqlite:///{tmp_path}/mine.db",
    }

    shown = subprocess.run(
        [BIN / "python", "-m", "ingest_platform.demo", "--home", home],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEMO_WITHIN_SECONDS,
    )

    assert shown.returncode == 0, shown.stdout + shown.stderr
    for model in ("gfs", "hrrr", "goes_east", "goes_west", "mrms"):
        assert re.search(rf"│ {model} +│ 20\d\d-\d\d-\d\dT\d\d +│ +(\d+)/\1 │", shown.stdout), shown.stdout
    assert re.search(r"^UI +http://127\.0\.0\.1:\d+", shown.stdout, re.MULTILINE)
    assert not (tmp_path / "mine.db").exists()
    [line] = re.findall(r"^Python +(.+)$", shown.stdout, re.MULTILINE)
    opened = subprocess.run(line, shell=True, cwd=REPOSITORY, capture_output=True, text=True)  # noqa: S602
    assert opened.returncode == 0, opened.stderr
    assert "<xarray.Dataset>" in opened.stdout
    assert "GFS 0.25° global forecast" in opened.stdout
    [query] = re.findall(r"^Query +(.+)$", shown.stdout, re.MULTILINE)
    asked = subprocess.run(query, shell=True, cwd=REPOSITORY, capture_output=True, text=True)  # noqa: S602
    assert asked.returncode == 0, asked.stderr
    assert sum(int(n) for n in re.findall(r"'n': (\d+)", asked.stdout)) == GENOMES


def test_the_demo_ends_with_an_error_if_something_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demo that says 0 with an empty table would pass in CI for ever."""

    def stands_still(home: Path, environ: Mapping[str, str], port: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
        )

    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(demo, "_start_dagster", stands_still)
    monkeypatch.setattr(
        demo, "_mirror", lambda *_: dict.fromkeys(("gfs", "hrrr", "goes_east", "goes_west", "mrms"), 1)
    )
    monkeypatch.setattr(demo, "STALLED_AFTER_SECONDS", 0.0)
    monkeypatch.chdir(REPOSITORY)

    shown = CliRunner().invoke(demo.main, ["--home", str(tmp_path / "demo")])

    assert shown.exit_code == 1
    assert "not whole yet: gfs, goes_east, goes_west, hrrr, mrms, demo-virus" in shown.output


def test_the_demo_spares_a_folder_that_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins by emptying its folder: one wrong --home and somebody's data is gone."""
    (tmp_path / "thesis.tex").touch()
    monkeypatch.chdir(REPOSITORY)

    refused = CliRunner().invoke(demo.main, ["--home", str(tmp_path)])

    assert refused.exit_code == 2
    assert "was not made by the demo" in refused.output
    assert (tmp_path / "thesis.tex").exists()

"""A weather worker is killed at each point of its way; the next one finishes as if nothing had happened.

SQLite and a folder. The points are those of the protocol's table, "What a death leaves, who heals it".
"""

import os
from pathlib import Path

import pytest

from ingest_platform_tests.crash.weather_scene import Scene, View
from ingest_platform_tests.crash.weather_worker import FIRST_OBJECT

SENSOR = [
    "after list",
    "see: before COMMIT",
    "see: after COMMIT",
    "keep_cursor: before COMMIT",
    "request: before COMMIT",
    "request: after COMMIT",
]
CLAIM = ["before claim", "claim: before COMMIT", "after claim"]
CREATE = [FIRST_OBJECT, "after create", "after create_branch"]
FETCH = ["during fetch", "read", "after chunks", "after the store commit"]
COMMIT = ["commit: before COMMIT", "commit: after COMMIT", "before the materialization"]
FAIL = ["inside fail", "fail: before COMMIT", "fail: after COMMIT"]

# Two objects are read at once, each in two ranges: at the third some chunks may be written, not all.
PASSAGES = {"read": 3}
# Who dies inside fail was brought there by an error.
RAISED_BEFORE = dict.fromkeys(FAIL, "after chunks")


@pytest.mark.case(21)
@pytest.mark.parametrize("point", SENSOR + CLAIM + CREATE + FETCH + COMMIT + FAIL)
def test_a_death_before_anything_is_published_heals(point: str, untouched: Scene, clean_first: View) -> None:
    """Else a power cut leaves half a cycle, a cycle twice, or one that is never tried again."""
    untouched.kill(point, passage=PASSAGES.get(point, 1), raise_at=RAISED_BEFORE.get(point, ""))
    seen = untouched.look()
    untouched.rescue()

    assert seen.published in [((), {}), clean_first.published]
    untouched.check_healed(clean_first)


@pytest.mark.case(21)
@pytest.mark.parametrize("point", ["after create_branch", *FETCH[1:], *COMMIT[:2], "fail: before COMMIT"])
def test_a_death_while_a_version_replaces_another_heals(
    point: str, grown: Scene, published_before: View, clean_grown: View
) -> None:
    """Else readers of a published cycle meet two versions of it, or none."""
    grown.kill(point, passage=PASSAGES.get(point, 1), raise_at=RAISED_BEFORE.get(point, ""))
    seen = grown.look()
    grown.rescue()

    assert seen.published in [published_before.published, clean_grown.published]
    grown.check_healed(clean_grown)


@pytest.mark.case(21)
@pytest.mark.parametrize(
    ("point", "passage", "grids"),
    [
        ("after commit", 1, 16),
        ("after the store commit", 2, 16),
        ("commit: before COMMIT", 2, 16),
        ("commit: after COMMIT", 2, 18),
    ],
)
def test_a_death_in_the_second_batch_keeps_the_first(
    point: str, passage: int, grids: int, radar: Scene, clean_radar: View
) -> None:
    """Else an hour that was visible in part is gone, or its first half is ingested twice."""
    radar.kill(point, passage=passage)
    seen = radar.look()
    rescuer = radar.rescue()

    assert len(seen.grids) == grids
    assert set(seen.grids) <= set(clean_radar.grids)
    assert len(rescuer.reads) == 18 - grids
    radar.check_healed(clean_radar)


@pytest.mark.case(21)
def test_an_object_that_kills_every_worker_is_quarantined_and_its_neighbours_are_published(
    untouched: Scene, clean_first: View
) -> None:
    """Else one damaged file at the source keeps a whole cycle from its readers for ever."""
    poison = "hrrr.20260718/conus/hrrr.t09z.wrfsfcf01.grib2"

    for hours_ahead in range(3):
        untouched.kill(f"read {poison}", hours_ahead=hours_ahead)
        assert untouched.look().published == ((), {})
    untouched.rescue(3)

    view = untouched.look()
    assert {key: state for _, key, _, state in view.objects} == {
        "hrrr.20260718/conus/hrrr.t09z.wrfsfcf00.grib2": "ingested",
        poison: "quarantined",
        "hrrr.20260718/conus/hrrr.t09z.wrfsfcf02.grib2": "ingested",
    }
    assert view.grids == tuple(grid for grid in clean_first.grids if "f001/" not in dict(grid)["name"])


@pytest.mark.case(21)
def test_what_a_dead_worker_left_in_scratch_is_swept_by_the_next(untouched: Scene) -> None:
    """Else each death fills the disk a little more."""
    scratch = Path(untouched.environ["INGEST_HOME"]) / "scratch"

    untouched.kill("read")
    (left,) = scratch.iterdir()
    os.utime(left, (0, 0))
    untouched.rescue()

    assert list(scratch.iterdir()) == []

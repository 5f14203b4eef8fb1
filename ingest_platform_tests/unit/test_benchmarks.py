"""The benchmarks' own machinery: what a child cost, and the README's table of claims."""

import pytest
from click import ClickException

from benchmarks.__main__ import BEGIN, END, scripts, table, with_table
from benchmarks.measure import Claim, Measured, Sample, measure

FAST = Measured((Sample(1.0, 1.5, 100.0, None), Sample(3.0, 2.5, 90.0, None), Sample(2.0, 2.0, 80.0, None)))


def idle_after_holding(mebibytes: int) -> int:
    """What a child does: touch memory, and answer."""
    return len(bytearray(b"x") * (mebibytes << 20)) >> 20


def failing() -> None:
    raise ValueError("no such file: cycle.grib2")


def test_a_child_is_charged_for_its_own_memory_not_its_parents() -> None:
    """Else a big parent makes every peak look the same."""
    ballast = bytearray(b"x") * (300 << 20)

    small = measure("ingest_platform_tests.unit.test_benchmarks:idle_after_holding", {"mebibytes": 1})
    large = measure("ingest_platform_tests.unit.test_benchmarks:idle_after_holding", {"mebibytes": 200})

    assert len(ballast) == 300 << 20
    assert large.peak_mib - small.peak_mib == pytest.approx(199, abs=20)
    assert large.result == 200


def test_a_child_that_fails_tells_why() -> None:
    """Else a broken peer would look like a fast one."""
    with pytest.raises(RuntimeError, match=r"no such file: cycle\.grib2"):
        measure("ingest_platform_tests.unit.test_benchmarks:failing")


def test_figures_are_medians_and_the_highest_peak() -> None:
    """One run that was lucky must not make the table."""
    assert (FAST.wall_seconds, FAST.cpu_seconds, FAST.peak_mib) == (2.0, 2.0, 100.0)
    assert FAST.spread == 1.0


def test_a_missed_goal_stands_in_the_table_as_missed() -> None:
    """A table of what holds only is an advertisement."""
    missed = Claim("one hour", FAST, {"rows": 7}, 1.37, "≤ 1.25 ×", holds=False)

    assert table([missed.json()]).splitlines()[2] == (
        "| one hour | 2 s, 2 CPU-s, 100 MiB | rows 7 | 1.37 | ≤ 1.25 × | **missed** |"
    )


def test_only_the_text_between_the_markers_is_replaced() -> None:
    """The page is people's, but for the table."""
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    written = with_table(with_table(page, "new"), "newer")

    assert written.startswith(f"before\n{BEGIN}\n")
    assert written.endswith(f"newer\n{END}\nafter\n")
    assert "old" not in written
    assert "new\n" not in written


def test_a_page_without_markers_is_left_alone() -> None:
    """Else the table would be lost without a word."""
    with pytest.raises(ClickException, match="put the markers"):
        with_table("no markers", "table")


def test_every_script_is_found() -> None:
    """`make bench` says that it repeats all."""
    assert {"gfs_hour", "observations", "domain_share", "latency", "ledger_at_scale", "purge"} <= set(
        scripts()
    )
    assert "measure" not in scripts()

"""As test_weather_kill, on PostgreSQL and S3: the points where a ledger or a store can be told apart."""

import pytest

from ingest_platform_tests.crash.weather_scene import Scene, View

FIRST = ["see: before COMMIT", "after claim"]
NEXT = [
    "after chunks",
    "after the store commit",
    "commit: before COMMIT",
    "commit: after COMMIT",
    "fail: before COMMIT",
]


@pytest.mark.case(21)
@pytest.mark.parametrize("point", FIRST)
def test_a_death_before_anything_is_published_heals_on_servers(
    point: str, untouched_servers: Scene, clean_first: View
) -> None:
    """Else a node that is drained leaves half a cycle, or one that is never tried again."""
    untouched_servers.kill(point)
    seen = untouched_servers.look()
    untouched_servers.rescue()

    assert seen.published == ((), {})
    untouched_servers.check_healed(clean_first)


@pytest.mark.case(21)
@pytest.mark.parametrize("point", NEXT)
def test_a_death_while_a_version_replaces_another_heals_on_servers(
    point: str, grown_servers: Scene, published_before: View, clean_grown: View
) -> None:
    """Else readers of a published cycle meet two versions of it, or none."""
    grown_servers.kill(point, raise_at="after chunks" if point.startswith("fail") else "")
    seen = grown_servers.look()
    grown_servers.rescue()

    landed = point == "commit: after COMMIT"
    assert seen.published == (clean_grown if landed else published_before).published
    grown_servers.check_healed(clean_grown)

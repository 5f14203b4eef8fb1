"""A writer that is stopped past its lease wakes up after reconcile has deleted what it was writing."""

import signal

import pytest

from ingest_platform_tests.crash.reconcile_worker import Order, work
from ingest_platform_tests.crash.weather_scene import PATIENCE_SECONDS, Scene, View


@pytest.fixture(params=["untouched", "untouched_servers"])
def nothing_yet(request: pytest.FixtureRequest) -> Scene:
    """Nothing is published; three leads lie at the source."""
    scene: Scene = request.getfixturevalue(request.param)
    return scene


@pytest.mark.case(23)
@pytest.mark.parametrize("point", ["after create_branch", "after chunks", "after the store commit"])
def test_a_writer_that_wakes_after_reconcile_took_its_repository_commits_nothing(
    point: str, nothing_yet: Scene, clean_first: View
) -> None:
    """Else the ledger names bytes that were deleted while their writer slept."""
    scene = nothing_yet

    sleeper = scene.stop(point)
    ((_, begun, _),) = scene.named()
    scene.rescue()
    named = scene.named()
    found = work(Order(scene.environ, hours_ahead=1))
    sleeper.process.send_signal(signal.SIGCONT)
    said, _ = sleeper.process.communicate(timeout=PATIENCE_SECONDS)

    assert [orphan["uri"] for orphan in found["orphans"]] == [begun]
    assert found["removed"] == 1
    assert '"published": 0' in said or sleeper.process.returncode == 1, sleeper.log.read_text()
    assert scene.named() == named
    # What the writer still wrote has no name: the next reconcile takes it.
    work(Order(scene.environ, hours_ahead=1))
    with scene.opened() as (_, store):
        assert [*store.list_uris()] == [uri for _, uri, _ in named]
    seen = scene.look()
    assert (seen.objects, seen.published) == (clean_first.objects, clean_first.published)

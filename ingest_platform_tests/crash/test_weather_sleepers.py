"""A weather worker is stopped past its lease and wakes up after another one has done its work.

The ledger's clock of the second worker is an hour ahead: nobody waits for a lease to run out.
"""

from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from ingest_platform.catalog import engine
from ingest_platform_tests.crash.weather_scene import Scene, View
from ingest_platform_tests.crash.weather_worker import Result

# The points outside of a transaction: whoever sleeps there holds nothing but a lease.
OUTSIDE = ["after claim", "after chunks", "after the store commit"]


@pytest.fixture(params=["sqlite and folder", "postgresql and s3"])
def published_before_both(request: pytest.FixtureRequest) -> Scene:
    """Two leads are published; at the source one was replaced and one is new."""
    name = "grown" if request.param.startswith("sqlite") else "grown_servers"
    scene: Scene = request.getfixturevalue(name)
    return scene


@pytest.mark.case(21)
@pytest.mark.parametrize("point", OUTSIDE)
def test_a_worker_that_slept_past_its_lease_cannot_commit(
    point: str, published_before_both: Scene, published_before: View, clean_grown: View
) -> None:
    """Else what the second worker published is replaced by what the first had begun."""
    scene = published_before_both

    sleeper = scene.stop(point)
    while_asleep = scene.look()
    scene.rescue()
    taken_over, named = scene.look(), scene.named()
    woken = sleeper.wake()

    assert while_asleep.published == published_before.published
    assert taken_over == clean_grown
    assert woken.published == 0
    assert any("another worker took the lease" in error for error in woken.errors), woken
    assert scene.named() == named
    scene.check_healed(clean_grown)


@pytest.mark.case(21)
def test_a_worker_that_slept_before_anything_was_published_cannot_commit(
    untouched: Scene, clean_first: View
) -> None:
    """Else the ledger names a repository that the second worker knows nothing of."""
    sleeper = untouched.stop("after the store commit")
    untouched.rescue()
    named = untouched.named()
    woken = sleeper.wake()

    assert woken.published == 0
    assert untouched.named() == named
    untouched.check_healed(clean_first)


@pytest.mark.case(21)
def test_a_worker_that_wakes_up_while_its_successor_works_cannot_commit(
    grown: Scene, published_before: View, clean_grown: View
) -> None:
    """Else the lease of the living is spent by the dead, and the successor's commit is the one refused."""
    sleeper = grown.stop("after the store commit")
    woken: list[Result] = []
    meanwhile: list[View] = []

    def wake_it(point: str) -> None:
        if point == "after the store commit":
            woken.append(sleeper.wake())
            meanwhile.append(grown.look())

    successor = grown.work(wake_it, hours_ahead=1)

    assert woken[0].published == 0
    assert "another worker took the lease" in woken[0].errors[0]
    assert meanwhile[0].published == published_before.published
    assert successor.published == 2
    grown.check_healed(clean_grown)


@pytest.mark.case(21)
def test_a_worker_that_slept_after_its_commit_has_nothing_left_to_do(grown: Scene, clean_grown: View) -> None:
    """Else a pause after the last step does the work twice."""
    sleeper = grown.stop("commit: after COMMIT")
    reads = grown.rescue().reads
    woken = sleeper.wake()

    assert reads == []
    assert woken.errors == []
    grown.check_healed(clean_grown)


@pytest.mark.case(21)
def test_a_worker_that_sleeps_inside_a_sqlite_transaction_is_waited_for(
    grown: Scene, published_before: View, clean_grown: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a locked ledger reads like one without work. Who was not relieved may finish."""
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", timedelta(seconds=0.2))

    sleeper = grown.stop("commit: before COMMIT")
    with pytest.raises(OperationalError, match="locked"):
        grown.rescue()
    while_asleep = grown.look()
    woken = sleeper.wake()

    assert while_asleep.published == published_before.published
    assert woken.published == 2
    grown.check_healed(clean_grown)


@pytest.mark.case(21)
def test_a_worker_that_sleeps_inside_a_postgresql_transaction_is_thrown_out(
    grown_servers: Scene, clean_grown: View
) -> None:
    """Else one stopped machine blocks a partition for everybody."""
    sleeper = grown_servers.stop("commit: before COMMIT", idle_seconds=0.5)
    grown_servers.rescue()
    named = grown_servers.named()
    story = sleeper.failed()

    assert "sqlalchemy.exc.OperationalError" in story
    assert grown_servers.named() == named
    grown_servers.check_healed(clean_grown)

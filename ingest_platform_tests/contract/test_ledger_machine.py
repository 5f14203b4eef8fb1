"""No order of sightings, crashes, lost answers and wrong clocks breaks the ledger, on either dialect."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ingest_platform_tests.contract.ledger_machine import LedgerMachine
from ingest_platform_tests.contract.ledger_world import empty_postgresql, fresh_sqlite

# About 15 s on a laptop's cores. The named tests hold every single guard; this one looks for the order of
# steps that nobody thought of.
SETTINGS = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.case(21)
@pytest.mark.case(22)
@pytest.mark.case(23)
def test_no_trace_breaks_the_ledger_on_sqlite(sqlite_template: Path) -> None:
    """Else some order of crashes shows readers a mixed forecast, or loses one for good."""

    class Machine(LedgerMachine):
        fresh = staticmethod(lambda: fresh_sqlite(sqlite_template, Path(tempfile.mkdtemp())))
        dispose = staticmethod(lambda url: shutil.rmtree(Path(url.removeprefix("sqlite:///")).parent))

    run_state_machine_as_test(Machine, settings=SETTINGS)


@pytest.mark.case(21)
@pytest.mark.case(22)
@pytest.mark.case(23)
def test_no_trace_breaks_the_ledger_on_postgresql(postgresql_ledger: str) -> None:
    """The same rules must hold on the other dialect."""

    class Machine(LedgerMachine):
        fresh = staticmethod(lambda: empty_postgresql(postgresql_ledger))
        dispose = staticmethod(lambda _url: None)

    # The same steps; each takes two to three times as long.
    run_state_machine_as_test(Machine, settings=settings(SETTINGS, max_examples=40))

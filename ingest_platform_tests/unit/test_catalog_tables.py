"""The ledger's column types and constants, without a database."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql, sqlite

from ingest_platform.catalog.claim import HOLD_OFF, LEASE, LONGEST_BATCH, MAX_ATTEMPTS
from ingest_platform.catalog.commit import FIRST_BACKOFF, LONGEST_BACKOFF, LONGEST_RETRY_AFTER, backoff
from ingest_platform.catalog.tables import DAWN, UtcTime, silo_index, typed_table, weather_grid

zones = st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours)))
moments = st.datetimes(datetime(2, 1, 1), datetime(9000, 1, 1), timezones=zones)  # noqa: DTZ001


@given(moments, moments)
def test_sqlite_keeps_times_exactly_and_in_order(one: datetime, other: datetime) -> None:
    """Else two versions of a file could change places."""
    column, dialect = UtcTime(), sqlite.dialect()

    first, second = (column.process_bind_param(moment, dialect) for moment in (one, other))

    assert isinstance(first, int)
    assert isinstance(second, int)
    assert column.process_result_value(first, dialect) == one
    assert (first < second) == (one < other)


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()])  # type: ignore[no-untyped-call]
def test_every_time_that_comes_back_is_utc(dialect: Dialect) -> None:
    """Else a reader would have to ask which zone the server speaks."""
    column = UtcTime()
    tokyo = datetime(2026, 3, 1, 9, tzinfo=timezone(timedelta(hours=9)))

    back = column.process_result_value(column.process_bind_param(tokyo, dialect), dialect)

    assert back == datetime(2026, 3, 1, tzinfo=UTC)
    assert back is not None
    assert back.tzinfo is UTC
    assert column.process_result_value(column.process_bind_param(None, dialect), dialect) is None


def test_a_time_without_a_zone_is_refused() -> None:
    """Else a local time would be taken for UTC."""
    with pytest.raises(ValueError, match="aware times only"):
        UtcTime().process_bind_param(datetime(2026, 3, 1), sqlite.dialect())  # noqa: DTZ001


def test_dawn_is_before_every_event() -> None:
    """Else an archive of old recordings would count as purged."""
    assert DAWN - datetime.min.replace(tzinfo=UTC) == timedelta(0)


@given(st.integers(0, 10**9))
def test_backoff_grows_from_the_first_to_the_longest(times: int) -> None:
    """Else an outage of months would overflow, or a retry would come at once."""
    assert FIRST_BACKOFF <= backoff(times) <= backoff(times + 1) <= LONGEST_BACKOFF < LONGEST_RETRY_AFTER


def test_the_times_fit_each_other() -> None:
    """A lease outlives two lost heartbeats; a hold-off outlives the lease of a run that died at its start."""
    assert timedelta(0) < LEASE < HOLD_OFF < LONGEST_BATCH
    assert MAX_ATTEMPTS == 3


def test_a_source_has_the_typed_table_of_its_family() -> None:
    """Else grids of a new model would have no columns to be asked by."""
    assert typed_table("weather.gfs") is weather_grid
    assert typed_table("weather") is weather_grid
    assert typed_table("silo") is silo_index
    assert typed_table("audio") is None
    assert typed_table("weatherman.gfs") is None

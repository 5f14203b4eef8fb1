"""A draft becomes a snapshot that holds the grids bit for bit, on a folder and on S3."""

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr

from ingest_platform.catalog.model import Claim, Snapshot
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.store import Store, open_store
from ingest_platform.weather.model import Geometry, Grid, Kind, Model, Packing, Parameter, Source, SourceFile
from ingest_platform.weather.publish import Written, erase, open_draft, reserve, seal, write
from ingest_platform.weather.read import NotPublished, open_live
from ingest_platform_tests.services.s3 import S3Server

CYCLE = datetime(2025, 8, 1, tzinfo=UTC)
SOURCE = Source(since=datetime(2021, 1, 1, tzinfo=UTC), bucket="bucket", key="{cycle:%Y%m%d%H}.f{lead:03}")
TEMPERATURE = Parameter(
    name="temperature",
    variable="TMP",
    levels_hpa=(850, 500),
    units="K",
    long_name="Temperature",
    valid_range=(100, 400),
)
GUST = Parameter(
    name="gust", variable="GUST", level="surface", units="m s-1", long_name="Gust", valid_range=(0, 200)
)
MODEL = Model(
    id="tiny",
    family="tiny",
    title="Tiny forecast",
    kind=Kind.FORECAST,
    sources=(SOURCE,),
    cadence_minutes=360,
    poll_interval_seconds=60,
    delay_minutes=0,
    complete_after_minutes=60,
    retention_hours=24,
    keep_latest=1,
    parameters=(TEMPERATURE, GUST),
)
GEOMETRY = Geometry(
    y_name="latitude",
    x_name="longitude",
    y=np.linspace(90, -90, 5),
    x=np.arange(0, 360, 45.0),
    y_attributes=(("standard_name", "latitude"), ("units", "degrees_north")),
    x_attributes=(("standard_name", "longitude"), ("units", "degrees_east")),
    grid_mapping="crs",
    crs=(("grid_mapping_name", "latitude_longitude"), ("earth_radius", 6371229.0)),
    bbox=(0, -90, 315, 90),
)


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The two kinds of store that users have."""
    if request.param == "file":
        return open_store((tmp_path / "data").as_uri())
    server: S3Server = request.getfixturevalue("s3_server")
    return open_store(
        f"s3://{server.fresh_bucket()}/weather",
        credentials=Credentials(server.access_key, server.secret_key),
        endpoint=server.endpoint,
        region=server.region,
    )


def lead_file(hours: int) -> SourceFile:
    return SourceFile("tiny", "bucket", f"2025080100.f{hours:03}", SOURCE, CYCLE, timedelta(hours=hours))


def grid(parameter: Parameter, level: str, hours: int, seed: int) -> Grid:
    values = np.random.default_rng(seed).normal(280, 10, (5, 8)).astype(np.float32)
    values[0, 0] = np.nan
    lead = timedelta(hours=hours)
    return Grid(parameter, level, "instant", CYCLE, CYCLE + lead, lead, GEOMETRY, values)


def claim(snapshot: str | None = None, token: int = 1, uri: str = "weather.tiny/2025-08-01T00/abc") -> Claim:
    return Claim("weather.tiny", "2025-08-01T00", 1, token, uri, snapshot, ())


@dataclass
class FakeLedger:
    """Names what the test says."""

    snapshots: list[Snapshot | None]

    def published(self, source: str, partition: str) -> Snapshot | None:
        return self.snapshots.pop(0) if len(self.snapshots) > 1 else self.snapshots[0]

    def partition_state(
        self, source: str, partition: str, *, event_end: datetime | None = None
    ) -> str | None:
        return "purged" if self.snapshots[0] is None else "open"


def row(grid: Grid, written: Written) -> dict[str, Any]:
    return {
        "variable": grid.parameter.name,
        "array": written.array,
        "time_index": written.index,
        "level_index": written.level_index,
        "valid_time": grid.valid_time,
    }


def publish(
    store: Store, held: Claim, leads: dict[int, list[Grid]], erasing: bool = False, model: Model = MODEL
) -> tuple[str, list[dict[str, Any]]]:
    draft = open_draft(store, model, held, lambda _: None)
    reserve(draft, [lead_file(hours) for hours in leads])
    rows = []
    for hours, grids in leads.items():
        if erasing:
            erase(draft, lead_file(hours))
        rows += [row(g, write(draft, lead_file(hours), g)) for g in grids]
    return seal(draft, "test"), rows


def open_rows(store: Store, held: Claim, snapshot: str, rows: list[dict[str, Any]]) -> xr.Dataset:
    named = Snapshot("2025-08-01T00", held.uri, snapshot, tuple(rows))
    return open_live(FakeLedger([named]), store, MODEL, "2025-08-01T00")


def test_grids_come_back_bit_for_bit(store: Store) -> None:
    """Else the forecaster reads another temperature than the one that was published."""
    grids = {
        3: [grid(TEMPERATURE, "850 mb", 3, 1), grid(TEMPERATURE, "500 mb", 3, 2), grid(GUST, "surface", 3, 3)]
    }

    snapshot, rows = publish(store, claim(), grids)

    ds = open_rows(store, claim(), snapshot, rows)
    assert ds.temperature.dims == ("lead", "isobaric", "latitude", "longitude")
    np.testing.assert_array_equal(ds.temperature.sel(lead="3h", isobaric=850).values, grids[3][0].values)
    np.testing.assert_array_equal(ds.temperature.sel(lead="3h", isobaric=500).values, grids[3][1].values)
    np.testing.assert_array_equal(ds.gust.sel(lead="3h").values, grids[3][2].values)
    assert ds.gust.values.dtype == np.float32
    assert ds.valid_time.values[0] == np.datetime64("2025-08-01T03")
    assert ds.cycle.values == np.datetime64("2025-08-01T00")


def test_leads_that_arrive_out_of_order_are_read_in_order(store: Store) -> None:
    """Else a plot over time runs back and forth."""
    snapshot, rows = publish(store, claim(), {6: [grid(GUST, "surface", 6, 1)]})
    again, more = publish(store, claim(snapshot, 2), {3: [grid(GUST, "surface", 3, 2)]})

    ds = open_rows(store, claim(), again, rows + more)

    assert ds.lead.values.astype("timedelta64[h]").astype(int).tolist() == [3, 6]
    np.testing.assert_array_equal(ds.gust.sel(lead="6h").values, grid(GUST, "surface", 6, 1).values)


def test_a_new_version_without_a_message_leaves_nothing_of_the_old_one(store: Store) -> None:
    """Else values of two versions stand side by side."""
    first = {3: [grid(TEMPERATURE, "850 mb", 3, 1), grid(GUST, "surface", 3, 3)]}
    snapshot, rows = publish(store, claim(), first)

    again, newer = publish(store, claim(snapshot, 2), {3: [grid(GUST, "surface", 3, 9)]}, erasing=True)

    ds = open_rows(store, claim(), again, rows + newer)
    assert np.isnan(ds.temperature.values).all()
    np.testing.assert_array_equal(ds.gust.values[0], grid(GUST, "surface", 3, 9).values)
    old = open_rows(store, claim(), snapshot, rows)
    np.testing.assert_array_equal(old.temperature.values[0, 0], first[3][0].values)


def test_a_parameter_that_was_taken_from_the_settings_leaves_no_old_values(store: Store) -> None:
    """Else a new version of a lead is shown with the older one's gusts."""
    snapshot, rows = publish(
        store, claim(), {3: [grid(GUST, "surface", 3, 1)], 6: [grid(GUST, "surface", 6, 2)]}
    )
    fewer = MODEL.model_copy(update={"parameters": (TEMPERATURE,)})

    again, newer = publish(
        store, claim(snapshot, 2), {3: [grid(TEMPERATURE, "850 mb", 3, 3)]}, erasing=True, model=fewer
    )

    ds = open_rows(store, claim(), again, rows[1:] + newer)
    assert np.isnan(ds.gust.sel(lead="3h").values).all()
    np.testing.assert_array_equal(ds.gust.sel(lead="6h").values, grid(GUST, "surface", 6, 2).values)


def test_only_what_the_ledger_names_is_shown(store: Store) -> None:
    """Else a lead whose commit failed is taken for data."""
    snapshot, rows = publish(
        store, claim(), {3: [grid(GUST, "surface", 3, 1)], 6: [grid(TEMPERATURE, "850 mb", 6, 2)]}
    )

    ds = open_rows(store, claim(), snapshot, rows[:1])

    assert list(ds.data_vars) == ["gust"]
    assert ds.sizes["lead"] == 1


def test_packed_values_are_stored_packed_and_read_in_their_units(store: Store) -> None:
    """Else satellite imagery takes four times the room, or comes back as counts."""
    packed = np.array([[0, 1], [2, -1]], dtype=np.int16)
    geometry = replace(GEOMETRY, y=np.array([1.0, 0.0]), x=np.array([0.0, 1.0]))
    counts = replace(
        grid(GUST, "surface", 3, 1), values=packed, packing=Packing(0.5, 10.0, -1), geometry=geometry
    )

    snapshot, rows = publish(store, claim(), {3: [counts]})

    ds = open_rows(store, claim(), snapshot, rows)
    np.testing.assert_array_equal(ds.gust.values[0], np.array([[10, 10.5], [11, np.nan]], dtype=np.float32))


def test_a_grid_on_another_geometry_gets_an_array_of_its_own(store: Store) -> None:
    """Else a satellite swap within an hour shifts every pixel."""
    shifted = replace(grid(GUST, "surface", 6, 2), geometry=replace(GEOMETRY, x=GEOMETRY.x + 1))

    snapshot, rows = publish(store, claim(), {3: [grid(GUST, "surface", 3, 1)], 6: [shifted]})

    ds = open_rows(store, claim(), snapshot, rows)
    assert rows[1]["array"] == "gust__2"
    np.testing.assert_array_equal(ds["gust__2"].sel(lead="6h").values, shifted.values)
    assert ds["gust__2"].dims[-1] == "longitude__2"


def test_a_reader_whose_snapshot_went_away_is_told_so(store: Store) -> None:
    """Else lost bytes look like missing values."""
    lost = Snapshot("2025-08-01T00", "weather.tiny/2025-08-01T00/gone", "0" * 20, ())

    with pytest.raises(NotPublished, match="bytes are lost: run reconcile"):
        open_live(FakeLedger([lost]), store, MODEL, "2025-08-01T00")


def test_a_reader_that_meets_a_purge_is_told_purged(store: Store) -> None:
    """Else a purge looks like damage."""
    lost = Snapshot("2025-08-01T00", "weather.tiny/2025-08-01T00/gone", "0" * 20, ())

    with pytest.raises(NotPublished, match="purged by retention"):
        open_live(FakeLedger([lost, None]), store, MODEL, "2025-08-01T00")


def test_two_drafts_from_one_base_do_not_meet(store: Store) -> None:
    """Else a worker that slept past its lease overwrites its successor's grids."""
    snapshot, rows = publish(store, claim(), {3: [grid(GUST, "surface", 3, 1)]})
    sleeper = open_draft(store, MODEL, claim(snapshot, 2), lambda _: None)
    reserve(sleeper, [lead_file(6)])

    other, more = publish(store, claim(snapshot, 3), {6: [grid(GUST, "surface", 6, 2)]})
    write(sleeper, lead_file(6), grid(GUST, "surface", 6, 99))
    seal(sleeper, "late")

    ds = open_rows(store, claim(), other, rows + more)
    np.testing.assert_array_equal(ds.gust.sel(lead="6h").values, grid(GUST, "surface", 6, 2).values)


def test_a_grid_of_a_known_array_does_not_wait_for_another_s_creation(store: Store) -> None:
    """Else all threads stand still while the store takes the document of one new array."""
    draft = open_draft(store, MODEL, claim(), lambda _: None)
    reserve(draft, [lead_file(3), lead_file(6)])
    write(draft, lead_file(3), grid(GUST, "surface", 3, 1))

    with ThreadPoolExecutor(1) as threads:
        with draft.lock:
            writing = threads.submit(write, draft, lead_file(6), grid(GUST, "surface", 6, 2))
            done, _ = wait([writing], timeout=10)
        assert done

    assert writing.result().array == "gust"


def test_a_repository_that_cannot_be_opened_says_what_stands(store: Store) -> None:
    """Else a store outage reads like lost data."""
    from ingest_platform.errors import StoreUnavailable

    with pytest.raises(StoreUnavailable, match="What is published stands"):
        open_draft(store, MODEL, claim("0" * 20, uri="weather.tiny/2025-08-01T00/gone"), lambda _: None)


def test_the_dates_are_the_field_s_own(store: Store) -> None:
    """Else other tools than ours cannot read the axes."""
    snapshot, _ = publish(store, claim(), {3: [grid(GUST, "surface", 3, 1)]})

    session = icechunk.Repository.open(store.icechunk_storage(claim().uri)).readonly_session(
        snapshot_id=snapshot
    )
    ds = xr.open_zarr(session.store, consolidated=False, chunks=None, decode_timedelta=True)

    assert ds.attrs["Conventions"] == "CF-1.11"
    assert ds.gust.attrs["grid_mapping"] == "crs"
    assert ds.latitude.attrs["units"] == "degrees_north"
    assert ds.lead.attrs["standard_name"] == "forecast_period"

"""ABI netCDF files become packed grids, checked against HDF5's own reading; damage is refused."""

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ingest_platform.demo.synth_abi import satellite_file
from ingest_platform.errors import PermanentError
from ingest_platform.weather import goes
from ingest_platform.weather.model import Packing, Parameter
from ingest_platform.weather.unusable import Unusable

START = datetime(2026, 11, 21, 0, 1, 17, 300_000, tzinfo=UTC)
END = START + timedelta(seconds=157)
NAME = "OR_ABI-L2-CMIPC-M6C13_G19_s20263250001173_e20263250003546_c20263250004031.nc"
SHAPE = (600, 1000)  # three by four chunks, none of them whole at the lower border


def band(number: int) -> Parameter:
    return Parameter(name=f"c{number:02}", units="K", long_name="x", valid_range=(0, 400), band=number)


def scan(number: int = 13, name: str = NAME, satellite: str = "G19") -> bytes:
    return satellite_file(name, number, START, END, shape=SHAPE, satellite=satellite)


def stored(payload: bytes) -> NDArray[np.int16]:
    with h5py.File(io.BytesIO(payload)) as file:
        return np.asarray(file["CMI"][()])


def changed(payload: bytes, change: Callable[[Any], None]) -> bytes:
    buffer = io.BytesIO(payload)
    with h5py.File(buffer, "r+") as file:
        change(file)
    return buffer.getvalue()


def test_the_band_stays_packed_as_the_file_has_it() -> None:
    """Floats would double every byte that follows, and could not be compared with the source."""
    payload = scan()

    grid = goes.decode(payload, band(13))

    assert grid.values.dtype == np.uint16
    assert np.array_equal(grid.values, stored(payload).view(np.uint16))
    assert grid.packing == Packing(
        scale_factor=float(np.float32(0.06145332)),
        add_offset=float(np.float32(89.62)),
        fill=65535,
        unsigned=True,
    )


@pytest.mark.case(31)
def test_unpacked_values_are_scale_times_stored_plus_offset_and_fill_is_missing() -> None:
    """An unsigned fill of -1 read as signed makes the coldest pixels of the scan."""
    payload = scan()
    grid = goes.decode(payload, band(13))
    assert grid.packing is not None

    values = goes.unpack(grid)

    wide = stored(payload).view(np.uint16).astype(np.float64)
    expected = (wide * grid.packing.scale_factor + grid.packing.add_offset).astype(np.float32)
    missing = wide == 65535
    assert missing.any()
    assert np.isnan(values[missing]).all()
    assert values[~missing].tobytes() == expected[~missing].tobytes()


def test_the_time_is_the_start_of_the_scan_to_the_tenth_of_a_second() -> None:
    """All bands of a scan share it; the middle of the scan, `t`, differs by band."""
    grid = goes.decode(scan(), band(13))

    assert (grid.reference_time, grid.valid_time, grid.lead) == (START, START, timedelta(0))


@pytest.mark.parametrize(
    ("satellite", "longitude", "west", "north"),
    [("G19", -75.0, -0.101332, 0.128212), ("G18", -137.0, -0.069972, 0.128212)],
)
def test_coordinates_are_the_fixed_grid_in_exact_radians(
    satellite: str, longitude: float, west: float, north: float
) -> None:
    """The float32 of 5.6e-05 drifts over a row, and every satellite looks at another place."""
    place = goes.decode(scan(satellite=satellite), band(13)).geometry

    assert (place.y_name, place.x_name, place.grid_mapping) == ("y_2km", "x_2km", "goes_imager_projection")
    # The image is the middle of a sector of 1500 × 2500.
    rows, columns = (1500 - SHAPE[0]) // 2 + np.arange(SHAPE[0]), (2500 - SHAPE[1]) // 2 + np.arange(SHAPE[1])
    assert place.x == pytest.approx(west + 56e-6 * columns, abs=1e-15)
    assert place.y == pytest.approx(north - 56e-6 * rows, abs=1e-15)
    crs = dict(place.crs)
    assert crs["grid_mapping_name"] == "geostationary"
    assert crs["longitude_of_projection_origin"] == longitude
    assert crs["sweep_angle_axis"] == "x"


def test_axes_are_named_by_resolution_so_that_bands_can_share_a_group() -> None:
    """C02 has four times as many rows as C13: one name for both axes cannot be."""
    assert goes.decode(scan(2), band(2)).geometry.y_name == "y_500m"


def test_another_layout_is_read_by_hdf5_itself() -> None:
    """A change of compression at the source must cost time, not the data."""

    def with_shuffle(file: Any) -> None:
        values, attributes = file["CMI"][()], dict(file["CMI"].attrs)
        del file["CMI"]
        again = file.create_dataset("CMI", data=values, chunks=(100, 100), shuffle=True, compression="gzip")
        kept = {k: v for k, v in attributes.items() if k != "DIMENSION_LIST"}
        again.attrs.update(kept)

    payload = scan()

    grid = goes.decode(changed(payload, with_shuffle), band(13))

    assert np.array_equal(grid.values, stored(payload).view(np.uint16))


def test_a_chunk_that_was_never_written_is_missing() -> None:
    """HDF5 leaves out chunks without data; memory left as it was would be a picture of something else."""

    def with_one_chunk(file: Any) -> None:
        part, attributes = file["CMI"][:250, :250], dict(file["CMI"].attrs)
        del file["CMI"]
        again = file.create_dataset("CMI", SHAPE, "<i2", chunks=(250, 250), compression=1, fillvalue=-1)
        again[:250, :250] = part
        again.attrs.update({k: v for k, v in attributes.items() if k != "DIMENSION_LIST"})

    grid = goes.decode(changed(scan(), with_one_chunk), band(13))

    assert (grid.values[250:] == 65535).all()


# refusals


def test_another_band_than_was_asked_for_is_refused() -> None:
    """Water vapour under the name of the clean window looks plausible."""
    with pytest.raises(Unusable, match="band 8 instead of 13") as refusal:
        goes.decode(scan(8), band(13))

    assert refusal.value.kind == "identity"


@pytest.mark.case(20)
@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_a_cut_file_is_refused(kept: float) -> None:
    """What is left of it still begins like a netCDF."""
    payload = scan()
    length = int(len(payload) * kept) if 0 < kept < 1 else int(kept)

    with pytest.raises(Unusable) as refusal:
        goes.decode(payload[:length], band(13))

    assert refusal.value.kind == "framing"


def test_no_flipped_bit_of_a_chunk_changes_a_pixel() -> None:
    """Every chunk carries a checksum; a decoder that skips it shows noise as clouds."""
    payload = scan()
    sound = goes.decode(payload, band(13)).values
    with h5py.File(io.BytesIO(payload)) as file:
        chunk = file["CMI"].id.get_chunk_info(5)
    rng = np.random.default_rng(0)
    refused = 0

    for at in rng.integers(chunk.byte_offset + 2, chunk.byte_offset + chunk.size, 60):
        damaged = bytearray(payload)
        damaged[at] ^= 1 << int(rng.integers(8))
        try:
            # A few bits of a deflate stream have no meaning.
            assert np.array_equal(goes.decode(bytes(damaged), band(13)).values, sound)
        except Unusable as error:
            refused += error.kind == "decode"

    assert refused > 50


@pytest.mark.parametrize("gone", ["CMI", "band_id", "goes_imager_projection", "x"])
def test_a_file_without_what_a_grid_needs_is_refused_by_name(gone: str) -> None:
    """The log must say what the satellite's ground system left out."""

    def without(file: Any) -> None:
        del file[gone]

    with pytest.raises(Unusable, match=gone):
        goes.decode(changed(scan(), without), band(13))


def test_pixels_of_an_unknown_size_are_refused() -> None:
    """An axis without a name of its own would be mixed with another resolution's."""

    def coarser(file: Any) -> None:
        file["x"].attrs["scale_factor"] = np.float32(1.12e-4)

    with pytest.raises(PermanentError, match="112 µrad"):
        goes.decode(changed(scan(), coarser), band(13))

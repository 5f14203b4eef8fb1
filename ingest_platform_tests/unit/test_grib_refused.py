"""Which GRIB2 messages are refused, and why."""

import struct
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from ingest_platform.demo import grib_writer
from ingest_platform.demo.grib_writer import Lattice, Window
from ingest_platform.errors import PermanentError
from ingest_platform.weather import grib
from ingest_platform.weather import model as weather
from ingest_platform.weather.grib_geometry import refuse_unreadable_scan
from ingest_platform.weather.unusable import Unusable
from ingest_platform_tests.unit.grib_messages import (
    CYCLE,
    GLOBE,
    HOUR,
    RAIN,
    TEMPERATURE,
    png,
    temperature,
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"grib": ((0, 0, 6),)}, "parameter 0/0/0 instead of 0/0/6"),
        ({"window": weather.Window.MAX_RECENT}, "window '6 hour fcst' instead of max recent"),
        ({"level": "80 m above ground"}, "level '2 m above ground' instead of '80 m above ground'"),
    ],
)
def test_another_field_than_was_asked_for_is_refused(change: dict[str, object], told: str) -> None:
    """A stale inventory points at somebody else's bytes: never a wrong grid under a right name."""
    parameter = TEMPERATURE.model_copy(update=change)

    with pytest.raises(Unusable, match=told) as refusal:
        grib.decode(temperature(), parameter, parameter.level)

    assert refusal.value.kind == "identity"


@pytest.mark.case(17)
def test_the_sum_since_the_cycle_is_not_taken_for_the_recent_one() -> None:
    """Both are APCP at the surface."""
    recent = grib_writer.message(
        (0, 1, 8),
        "surface",
        Window(6 * HOUR, 7 * HOUR, "acc"),
        CYCLE,
        GLOBE,
        grib_writer.pack_constant(0, 84),
    )
    since_cycle = RAIN.model_copy(update={"window": weather.Window.ACC_RUN})

    assert grib.decode(recent, RAIN, "surface").window == "6-7 hour acc"
    with pytest.raises(Unusable, match="instead of acc run"):
        grib.decode(recent, since_cycle, "surface")


def test_the_whole_atmosphere_is_one_level_under_both_of_its_codes() -> None:
    """NCEP writes types 10 and 200 for the same column."""
    single = temperature(level="entire atmosphere (considered as a single layer)")

    assert grib.decode(single, TEMPERATURE, "entire atmosphere").level == "entire atmosphere"


def cut(message: bytes) -> bytes:
    return message[:-20]


def without_end(message: bytes) -> bytes:
    return message[:-4] + b"9999"


def absurd_length(message: bytes) -> bytes:
    return message[:8] + (1 << 40).to_bytes(8) + message[16:]


def section_too_long(message: bytes) -> bytes:
    at = message.index(struct.pack(">IB", 34, 4), 16)
    return message[:at] + (1 << 31).to_bytes(4) + message[at + 4 :]


def as_an_error_page(message: bytes) -> bytes:
    return b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"


@pytest.mark.case(14, 15)
@pytest.mark.parametrize("damage", [cut, without_end, absurd_length, section_too_long, as_an_error_page])
def test_bytes_that_do_not_add_up_are_refused_before_any_decoder_sees_them(
    damage: Callable[[bytes], bytes],
) -> None:
    """eccodes answers an absurd length with an allocation and an error page with nothing at all."""
    with pytest.raises(Unusable) as refusal:
        grib.decode(damage(temperature()), TEMPERATURE, None)

    assert refusal.value.kind == "framing"


@pytest.mark.case(14)
@pytest.mark.parametrize("bit", range(0, 8 * 90, 7))
def test_no_flipped_bit_of_a_png_payload_passes(bit: int) -> None:
    """GRIB2 has no checksum, PNG has."""
    message = bytearray(temperature(packed=png(np.arange(84, dtype=np.uint16).reshape(GLOBE.shape))))
    start = message.index(b"\x89PNG")
    message[start + bit // 8] ^= 1 << bit % 8

    with pytest.raises(Unusable) as refusal:
        grib.decode(bytes(message), TEMPERATURE, None)

    assert refusal.value.kind == "decode"


@pytest.mark.case(14)
@pytest.mark.parametrize("reference", [float("nan"), float("inf")])
def test_garbage_never_becomes_a_grid_without_values(reference: float) -> None:
    """An all-NaN map passes every range check and looks like a place without data."""
    broken = grib_writer.pack_constant(reference, 84)

    with pytest.raises(Unusable, match="not a number") as refusal:
        grib.decode(temperature(packed=broken), TEMPERATURE, None)

    assert refusal.value.kind == "decode"


def test_a_message_of_several_fields_is_refused() -> None:
    """The second field would vanish without a word."""
    message = temperature()
    at = message.index(struct.pack(">IB", 34, 4), 16)
    twice = message[:-4] + message[at:]
    twice = twice[:8] + len(twice).to_bytes(8) + twice[16:]

    with pytest.raises(Unusable, match="several fields"):
        grib.identify(twice, [TEMPERATURE])


@pytest.mark.case(31)
@pytest.mark.parametrize(("flags", "name"), [(0x80, "westward"), (0x20, "columns"), (0x10, "backwards")])
def test_a_scan_order_without_rows_is_refused_by_name(flags: int, name: str) -> None:
    """Its values would land elsewhere on the map."""
    turned = Lattice(GLOBE.section[:71] + bytes([flags]), GLOBE.shape, GLOBE.latitude)

    with pytest.raises(PermanentError, match=name):
        grib.decode(temperature(turned), TEMPERATURE, None)
    refuse_unreadable_scan(0x40)


PRIVACY = """
from ingest_platform.weather.eccodes_library import load_eccodes
eccodes = load_eccodes()
eccodes.codes_release(eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2"))
import ctypes, pyproj, psycopg2
pyproj.CRS.from_epsg(4326)
leaked = [s for s in ("proj_create", "SSL_new", "sqlite3_open") if hasattr(ctypes.CDLL(None), s)]
raise SystemExit(", ".join(leaked) or 0)
"""


def test_eccodes_keeps_its_libraries_from_the_rest_of_the_process() -> None:
    """Else pyproj and psycopg2 bind to another PROJ and OpenSSL, and the process dies at its end."""
    ended = subprocess.run([sys.executable, "-c", PRIVACY], capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stderr) == (0, "")

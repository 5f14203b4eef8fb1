"""Framing: one damaged message costs itself, never its neighbours."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.weather.framing import Framed, Truncated, frame_error, head_length, scan_messages
from ingest_platform.weather.model import Rejected

BODIES = st.lists(st.binary(min_size=80, max_size=300), min_size=1, max_size=6)


def message(body: bytes) -> bytes:
    """A GRIB2 message in frame only."""
    return b"GRIB\0\0\0\2" + (20 + len(body)).to_bytes(8, "big") + body + b"7777"


def spans(messages: list[bytes]) -> list[Framed]:
    starts = [sum(map(len, messages[:at])) for at in range(len(messages))]
    return [Framed(start, len(part)) for start, part in zip(starts, messages, strict=True)]


@given(BODIES)
def test_every_whole_message_is_found(bodies: list[bytes]) -> None:
    """Else the scan and the inventory give different grids."""
    messages = [message(body) for body in bodies]

    assert scan_messages(b"".join(messages)) == spans(messages)


@pytest.mark.case(14)
@given(BODIES, st.data())
def test_a_damaged_message_does_not_take_others_with_it(bodies: list[bytes], data: st.DataObject) -> None:
    """Else one flipped bit in a length loses the rest of a GFS file."""
    messages = [message(body) for body in bodies]
    whole = spans(messages)
    victim = data.draw(st.integers(0, len(messages) - 1))
    part = bytearray(messages[victim])
    match data.draw(st.sampled_from(["length", "magic", "trailer"])):
        case "length":
            part[8:16] = data.draw(st.binary(min_size=8, max_size=8).filter(lambda b: b != part[8:16]))
        case "magic":
            part[0:4] = b"BIRG"
        case _:
            part[-4:] = b"0000"
    damaged = b"".join([*messages[:victim], bytes(part), *messages[victim + 1 :]])

    found = scan_messages(damaged)

    framed = [part for part in found if isinstance(part, Framed)]
    assert framed == [frame for frame in whole if frame != whole[victim]]
    # A lone message without its magic leaves nothing that could be called GRIB: fetch calls that Damaged.
    assert len(found) - len(framed) == 1 or (found == [] and len(messages) == 1) or len(part) <= 100


@pytest.mark.case(7)
@given(BODIES, st.data())
def test_a_file_cut_inside_its_last_message_is_told_from_a_damaged_one(
    bodies: list[bytes], data: st.DataObject
) -> None:
    """Else an upload under way is quarantined, or a damaged file is waited for for ever."""
    messages = [message(body.replace(b"7", b"8")) for body in bodies]
    cut = data.draw(st.integers(1, len(messages[-1]) - 4))
    said = len(messages[-1]) if cut >= 16 else 0

    found = scan_messages(b"".join(messages[:-1]) + messages[-1][:cut])

    if len(messages) == 1 and cut < 16:
        assert found == []  # no message at all, which fetch calls Damaged
        return
    assert found[:-1] == spans(messages)[:-1]
    assert found[-1] == Truncated(spans(messages)[-1].offset, said, cut)


def test_a_length_beyond_the_end_of_a_finished_file_is_damage() -> None:
    """Else a file with a broken last length is waited for, and never reported."""
    good, bad = message(b"x" * 100), bytearray(message(b"y" * 100))
    bad[8:16] = (1 << 40).to_bytes(8, "big")

    found = scan_messages(good + bytes(bad))

    assert found[0] == Framed(0, len(good))
    assert isinstance(found[1], Rejected)


@given(st.binary(max_size=500).filter(lambda noise: b"GRIB" not in noise))
def test_bytes_without_a_message_give_none(noise: bytes) -> None:
    """Else an error page passes for a file without parameters."""
    assert scan_messages(noise) == []


def test_the_word_grib_inside_packed_values_is_no_message() -> None:
    """Else the search after a damage comes up with a message that never was."""
    decoy = message(b"z" * 40 + b"GRIB\0\0\0\2" + (5000).to_bytes(8, "big") + b"z" * 40)
    damaged = bytearray(decoy)
    damaged[8:16] = (99_999).to_bytes(8, "big")

    found = scan_messages(bytes(damaged) + message(b"q" * 90))

    assert [part for part in found if isinstance(part, Framed)] == [Framed(len(decoy), 110)]


def test_a_bulletin_heading_between_messages_is_no_damage() -> None:
    """Else every file from a telecommunication feed counts as partial."""
    heading = b"\r\r\nYRBT02 KWBC 210000\r\r\n"
    first = message(b"x" * 80)

    found = scan_messages(heading + first + heading + first + b"\n\n")

    assert found == [Framed(len(heading), 100), Framed(len(heading) * 2 + 100, 100)]


@pytest.mark.case(14)
def test_real_messages_beside_a_corrupt_one_are_found(real_data: Path) -> None:
    """Else the damage tests prove something about invented files only."""
    whole = (real_data / "weather/nasty/ok4.grib2").read_bytes()
    frames = [frame for frame in scan_messages(whole) if isinstance(frame, Framed)]
    second = frames[1]
    no_trailer, long = bytearray(whole), bytearray(whole)
    no_trailer[second.offset + second.length - 4 : second.offset + second.length] = b"0000"
    long[second.offset + 8 : second.offset + 16] = (1 << 50).to_bytes(8, "big")

    assert [frame.offset for frame in frames] == [0, 41_723, 100_527, 142_623]
    for damaged in (bytes(no_trailer), bytes(long)):
        found = scan_messages(damaged)
        assert [part for part in found if isinstance(part, Framed)] == [frames[0], *frames[2:]]
        assert isinstance(found[1], Rejected)


def test_a_real_file_of_many_messages_is_framed_to_its_end(real_data: Path) -> None:
    """Else a real file has something between its messages that we do not know of."""
    body = (real_data / "weather/synthetic/gfs.t00z.pgrb2.0p25.f006").read_bytes()

    found = scan_messages(body)

    assert len(found) == 13
    assert all(isinstance(part, Framed) for part in found)


@pytest.mark.parametrize(
    ("bytes_", "length", "says"),
    [
        (b"<?xml version", 13, "expected GRIB edition 2"),
        (b"GRIB\0\0\0\1" + bytes(92), 100, "expected GRIB edition 2"),
        (message(b"x" * 80), 101, "section 0 says 100 bytes, expected 101"),
        (message(b"x" * 80)[:-4] + b"0000", 100, "expected 7777"),
    ],
)
def test_a_range_that_is_not_one_message_is_named(bytes_: bytes, length: int, says: str) -> None:
    """Else a stale inventory's range decodes to a grid under a wrong name."""
    assert says in (frame_error(bytes_, length) or "")


def test_a_head_is_read_only_where_one_is() -> None:
    """Else four letters in the data move the search."""
    whole = message(b"x" * 80)

    assert head_length(whole) == 100
    assert head_length(b"...." + whole, 4) == 100
    assert head_length(whole[:15]) is None
    assert frame_error(whole, 100) is None

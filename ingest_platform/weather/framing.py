"""Where GRIB2 messages begin and end, told from their frames alone: `GRIB`, edition, length … `7777`.

Pure. GRIB2 has no checksum and decoders lose the rest of a file after one bad length: so messages are cut out
here, one by one, and a damaged one costs only itself. What a message holds is not looked at.
"""

import mmap
from dataclasses import dataclass

from ingest_platform.weather.model import Rejected

MAGIC = b"GRIB"
TRAILER = b"7777"
SECTION_0_BYTES = 16  # magic, 2 reserved, discipline, edition, total length in 8 bytes: WMO 306, template 0
# Sections 1 to 7 cannot take fewer; the shortest real message, a constant HRRR field, has 188 bytes.
SHORTEST_BYTES = 92
# WMO bulletin headings between messages are about 40 bytes; a longer gap was once a message.
HEADING_BYTES = 100


@dataclass(frozen=True, slots=True)
class Framed:
    """A message with head, length and trailer in agreement."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Truncated:
    """The file ends inside this message."""

    offset: int
    length: int  # as its head says; 0 if the head itself is cut
    available: int


def scan_messages(buffer: bytes | mmap.mmap) -> list[Framed | Rejected | Truncated]:
    """Every message of a file in order, whole, damaged, or cut off by the file's end; [] if there is none."""
    found: list[Framed | Rejected | Truncated] = []
    position = 0
    while (start := _next_head(buffer, position)) is not None:
        found += _gap(position, start)
        part, position = _take(buffer, start, len(found) + 1)
        found.append(part)
    return found + _tail(buffer, position) if found else []


def frame_error(message: bytes | memoryview, length: int) -> str | None:
    """Why these bytes are not one GRIB2 message of `length` bytes; None if they are."""
    said = head_length(message)
    if said is None:
        return f"begins with {bytes(message[:8])!r}, expected GRIB edition 2"
    if said != length or len(message) != length:
        return f"section 0 says {said:,} bytes, expected {length:,}"
    if message[length - 4 : length] != TRAILER:
        return f"ends with {bytes(message[length - 4 : length])!r}, expected 7777"
    return None


def head_length(message: bytes | memoryview | mmap.mmap, offset: int = 0) -> int | None:
    """The total length in the GRIB2 head at `offset`; None if no head is there."""
    head = bytes(message[offset : offset + SECTION_0_BYTES])
    if len(head) < SECTION_0_BYTES or head[:4] != MAGIC or head[7] != 2:
        return None
    return int.from_bytes(head[8:], "big")


def _take(buffer: bytes | mmap.mmap, start: int, number: int) -> tuple[Framed | Rejected | Truncated, int]:
    """The message whose head is at `start`, and where the search goes on."""
    length = head_length(buffer, start) or 0
    end = start + length
    if _is_framed(buffer, start):
        return Framed(start, length), end
    what = f"message {number} at byte {start:,}"
    if length >= SHORTEST_BYTES and (end == len(buffer) or head_length(buffer, end) is not None):
        return Rejected(what, f"ends with {buffer[end - 4 : end]!r}, expected 7777", "framing"), end
    following = _next_framed(buffer, start + len(MAGIC))
    if following is None and end > len(buffer) and buffer[-len(TRAILER) :] != TRAILER:
        return Truncated(start, length, len(buffer) - start), len(buffer)
    reason = f"section 0 says {length:,} bytes, but no 7777 ends there"
    return Rejected(what, reason, "framing"), len(buffer) if following is None else following


def _is_framed(buffer: bytes | mmap.mmap, start: int) -> bool:
    length = head_length(buffer, start) or 0
    end = start + length
    return length >= SHORTEST_BYTES and end <= len(buffer) and buffer[end - len(TRAILER) : end] == TRAILER


def _next_head(buffer: bytes | mmap.mmap, position: int) -> int | None:
    while (start := buffer.find(MAGIC, position)) >= 0:
        if head_length(buffer, start) is not None:
            return start
        position = start + 1
    return None


def _next_framed(buffer: bytes | mmap.mmap, position: int) -> int | None:
    """The next whole message: the word GRIB alone may occur by chance in packed values."""
    while (start := _next_head(buffer, position)) is not None:
        if _is_framed(buffer, start):
            return start
        position = start + 1
    return None


def _tail(buffer: bytes | mmap.mmap, position: int) -> list[Framed | Rejected | Truncated]:
    rest = buffer[position : position + SECTION_0_BYTES]
    if 0 < len(rest) < SECTION_0_BYTES and MAGIC.startswith(rest[: len(MAGIC)]):
        return [Truncated(position, 0, len(rest))]
    return _gap(position, len(buffer))


def _gap(begin: int, end: int) -> list[Framed | Rejected | Truncated]:
    if end - begin <= HEADING_BYTES:
        return []
    return [Rejected(f"{end - begin:,} bytes at byte {begin:,}", "no message frames them", "framing")]

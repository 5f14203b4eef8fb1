"""A response body as record lines: every zstd frame whole, nothing after the last, memory bounded.

Knows zstd and newlines, nothing of JSON or HTTP.
"""

from collections.abc import Iterable, Iterator

from backports.zstd import ZstdDecompressor, ZstdError

from ingest_platform.errors import Damaged

# One call inflates at most this much: 128 kB of a frame can hold gigabytes of the same letter.
PIECE_BYTES = 1 << 20
# The largest viral genome (mpox, 200 kB) gives records of 1 MB; without a limit a stream without newlines
# would fill the memory.
LONGEST_LINE_BYTES = 64 << 20
GZIP_SIGNATURE = b"\x1f\x8b"


def inflate(body: Iterable[bytes], *, name: str) -> Iterator[bytes]:
    """The decompressed bytes of one or more zstd frames, in pieces of at most PIECE_BYTES.

    Damaged if the body is empty, is not zstd, ends inside a frame, or goes on after one with something
    else. Pieces come before the end was seen: nothing may be adopted until the iterator is exhausted.
    """
    decompressor = ZstdDecompressor()
    inside, frames, position = False, 0, 0
    for piece in body:
        waiting = piece
        while waiting:
            if decompressor.eof:
                decompressor = ZstdDecompressor()
            inside = True
            yield from _inflated(decompressor, waiting, name, frames, position, piece)
            if decompressor.eof:
                inside, frames = False, frames + 1
            waiting = decompressor.unused_data if decompressor.eof else b""
        position += len(piece)
    if inside or not frames:
        raise Damaged(
            f"{name}: the body ends after {position:,} bytes, "
            + (f"inside zstd frame {frames + 1}" if inside else "before any zstd frame")
            + f". {NOTHING_USED}"
        )


NOTHING_USED = "Nothing of it was used, the published index stays; it is tried again."


def _inflated(
    decompressor: ZstdDecompressor, waiting: bytes, name: str, frames: int, position: int, piece: bytes
) -> Iterator[bytes]:
    """What `waiting` adds to the frame under way."""
    try:
        yield decompressor.decompress(waiting, PIECE_BYTES)
        while not decompressor.eof and not decompressor.needs_input:
            yield decompressor.decompress(b"", PIECE_BYTES)
    except ZstdError as error:
        at = position + len(piece) - len(waiting)
        found = "gzip, which a proxy must have added" if waiting.startswith(GZIP_SIGNATURE) else waiting[:40]
        what = "follows the last frame" if frames else "is the body"
        raise Damaged(
            f"{name}: expected zstd at byte {at:,}; {found!r} {what} ({error}). {NOTHING_USED}"
        ) from error


def lines(pieces: Iterable[bytes], *, name: str) -> Iterator[bytes]:
    """The lines without their newlines, the last one also where no newline ends it.

    Only b"\\n" ends a line: U+2028 is a letter of the text. Damaged if one is longer than LONGEST_LINE_BYTES.
    """
    begun: list[bytes] = []  # a line that lies in many pieces is joined once
    begun_bytes = 0
    for piece in pieces:
        first, *rest = piece.split(b"\n")
        begun.append(first)
        begun_bytes += len(first)
        if rest:
            yield b"".join(begun)
            yield from rest[:-1]
            begun, begun_bytes = [rest[-1]], len(rest[-1])
        elif begun_bytes > LONGEST_LINE_BYTES:
            raise Damaged(f"{name}: a line of more than {LONGEST_LINE_BYTES:,} bytes. {NOTHING_USED}")
    yield b"".join(begun)

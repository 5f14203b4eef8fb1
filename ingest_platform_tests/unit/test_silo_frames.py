"""From compressed bytes to lines: complete or refused, whatever the pieces in which they come."""

import itertools
from collections.abc import Iterator

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_platform.errors import Damaged
from ingest_platform.silo import frames
from ingest_platform.silo.frames import inflate, lines

TEXTS = st.lists(st.binary(max_size=30).filter(lambda text: b"\n" not in text), max_size=20)


def pieces(body: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The body cut at these places."""
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    return (body[start:end] for start, end in itertools.pairwise(places))


@settings(deadline=None)
@given(
    texts=TEXTS, cuts=st.lists(st.integers(0, 10_000)), split=st.integers(0, 10_000), level=st.integers(1, 19)
)
def test_frames_and_pieces_make_no_difference_to_the_lines(
    texts: list[bytes], cuts: list[int], split: int, level: int
) -> None:
    """Else where the network cuts decides what a record is."""
    whole = b"\n".join(texts)
    place = split % (len(whole) + 1)
    body = zstd.compress(whole[:place], level=level) + zstd.compress(whole[place:])

    found = list(lines(inflate(pieces(body, cuts), name="x"), name="x"))

    assert found == whole.split(b"\n")


@settings(deadline=None)
@given(texts=TEXTS, cuts=st.lists(st.integers(0, 10_000)), missing=st.integers(1, 10_000))
def test_no_beginning_of_a_frame_passes_for_a_whole_one(
    texts: list[bytes], cuts: list[int], missing: int
) -> None:
    """Else a connection that ends early gives a smaller release."""
    body = zstd.compress(b"\n".join(texts))
    short = body[: -min(missing, len(body))]

    with pytest.raises(Damaged, match="the body ends after"):
        list(inflate(pieces(short, cuts), name="x"))


@settings(deadline=None)
@given(
    garbage=st.binary(min_size=4).filter(
        lambda tail: tail[:4] != b"\x28\xb5\x2f\xfd" and tail[1:4] != b"\x2a\x4d\x18"
    )
)
def test_nothing_may_follow_the_last_frame(garbage: bytes) -> None:
    """Else two answers that ran into each other pass for one."""
    with pytest.raises(Damaged, match="follows the last frame"):
        list(inflate([zstd.compress(b"{}") + garbage], name="x"))


def test_a_small_body_that_inflates_to_much_comes_in_small_pieces() -> None:
    """Else 30 kB of one letter take a gigabyte of memory at once."""
    bomb = zstd.compress(b"A" * (64 << 20))

    sizes = [len(piece) for piece in inflate([bomb], name="x")]

    assert sum(sizes) == 64 << 20
    assert max(sizes) <= frames.PIECE_BYTES


def test_a_stream_without_newlines_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it fills the memory before anything looks at it."""
    monkeypatch.setattr(frames, "LONGEST_LINE_BYTES", 1000)

    with pytest.raises(Damaged, match="a line of more than 1,000 bytes"):
        list(lines(itertools.repeat(b"A" * 100), name="x"))

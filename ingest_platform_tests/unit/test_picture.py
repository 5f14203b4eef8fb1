"""Pictures of grids: small enough to show in place, right way up, honest about what is missing."""

import io
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ingest_platform.weather.picture import SHOWN_IN_PLACE_CHARACTERS, Picture, block_means, picture

TITLE = "Temperature at 2 m, 2 m above ground, valid 2026-11-21 09:00:00Z"


def draw(
    values: NDArray[np.float32], *, title: str = TITLE, projected: bool = False, north_up: bool = True
) -> Picture:
    return picture(
        values,
        title=title,
        units="K",
        bbox=(230.0, 20.0, 300.0, 55.0),
        projected=projected,
        north_up=north_up,
    )


def noise(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(280, 10, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("shape", [(721, 1440), (1059, 1799), (12, 24), (40, 20), (1, 5)])
def test_a_thumbnail_shows_in_place_whatever_the_grid(shape: tuple[int, int]) -> None:
    """A longer text hides behind a click, and nobody clicks; noise is what packs worst."""
    drawn = draw(noise(*shape), title=TITLE * 3)

    assert len(drawn.thumbnail_markdown) < SHOWN_IN_PLACE_CHARACTERS
    assert "data:image/svg+xml," in drawn.thumbnail_markdown


def test_a_thumbnail_is_a_picture_with_its_range_and_units() -> None:
    """Colours without numbers say nothing."""
    values = np.linspace(250, 300, 96 * 192, dtype=np.float32).reshape(96, 192)

    found = re.search(r"\(data:image/svg\+xml,(.*)\)$", draw(values).thumbnail_markdown)

    assert found is not None
    svg = ElementTree.fromstring(unquote(found[1]))  # noqa: S314  our own
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["250.3", "299.7 K"]


def test_south_is_down_in_both_scan_orders() -> None:
    """HRRR's rows run northward: drawn as they lie, the Gulf of Mexico is on top."""
    values = np.linspace(250, 300, 96 * 192, dtype=np.float32).reshape(96, 192)

    upright, turned = draw(values), draw(values[::-1], north_up=False)

    assert upright.thumbnail_markdown == turned.thumbnail_markdown
    assert upright.full_webp == turned.full_webp


@pytest.mark.parametrize("projected", [True, False])
def test_the_full_picture_is_of_bearable_size(projected: bool) -> None:
    """It travels in every event of the run; noise is the most that a grid can cost."""
    drawn = draw(noise(500, 1000), projected=projected)

    with PIL.Image.open(io.BytesIO(drawn.full_webp)) as image:
        assert (image.format, image.width) == ("WEBP", 900)
    assert len(drawn.full_webp) < 80_000
    assert drawn.full_markdown.startswith("![map](data:image/webp;base64,")


def test_a_grid_without_values_says_so() -> None:
    """A quiet radar night is no error, and no picture of zeros either."""
    drawn = draw(np.full((20, 40), np.nan, dtype=np.float32))

    assert "no value anywhere" in drawn.thumbnail_markdown
    assert drawn.full_webp.startswith(b"RIFF")


def test_a_constant_grid_can_be_drawn() -> None:
    """No span to spread the colours over."""
    drawn = draw(np.full((20, 40), 273.15, dtype=np.float32))

    assert "273.1" in unquote(drawn.thumbnail_markdown)


def test_block_means_do_not_count_what_is_missing() -> None:
    """One missing cell must neither blank its block nor pull its mean."""
    values = np.array([[1, 3, np.nan, np.nan], [np.nan, 5, np.nan, np.nan]], dtype=np.float32)

    means = block_means(values, 2)

    assert means.shape == (1, 2)
    assert means[0, 0] == 3
    assert np.isnan(means[0, 1])


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 60), st.integers(1, 200)),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    st.integers(1, 100),
)
def test_block_means_stay_within_the_values_and_the_width(values: NDArray[np.float32], width: int) -> None:
    """A mean beyond the extremes would be a colour that is nowhere on the map."""
    means = block_means(values, width)

    assert means.shape[1] <= min(width, values.shape[1])
    assert values.min() <= means.min()
    assert means.max() <= values.max()

"""Pictures of one grid for Dagster's UI: a thumbnail that shows in place, and a full map after a click.

Draws what it is given and decides nothing: which grid stands for an ingest is chosen by the caller.
Dagster shows Markdown in place while it has fewer than 1,000 characters, so the thumbnail is a WEBP of
some 300 bytes that the browser enlarges, inside an SVG that adds the numbers.
"""

import base64
import io
import math
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

type Field = NDArray[np.float32]
type Box = tuple[float, float, float, float]

# Longer Markdown hides behind a click in Dagster's UI.
SHOWN_IN_PLACE_CHARACTERS = 1_000
_THUMBNAIL_WIDTH = 96
# The map's cells in the full picture: as many as the axes have pixels.
_FULL_WIDTH = 720
# Every event carries it, radar's 720 times a day: 17 kB, where a PNG of 256 colours took 200 kB.
_FULL_QUALITY = 40
# A mean over more samples a side than this looks the same and takes seconds for 60 million pixels.
_SAMPLES_A_SIDE = 6

_NO_VALUE = "#e2e2e2"  # light grey: no colour map here has it


@dataclass(frozen=True, slots=True)
class Picture:
    """One grid drawn twice."""

    thumbnail_markdown: str  # fewer than SHOWN_IN_PLACE_CHARACTERS
    full_webp: bytes

    @property
    def full_markdown(self) -> str:
        return f"![map](data:image/webp;base64,{base64.b64encode(self.full_webp).decode()})"


def picture(values: Field, *, title: str, units: str, bbox: Box, projected: bool, north_up: bool) -> Picture:
    """Draw a grid (float32, y × x, NaN where missing). `bbox` is west, south, east, north in degrees.

    `north_up`: the first row is the northernmost. `projected`: rows are not parallels, so the axes carry no
    degrees. A grid without any value is drawn grey and says so.
    """
    upright = values if north_up else values[::-1]
    return Picture(
        thumbnail_markdown=_thumbnail(upright, title, units),
        full_webp=_full(block_means(upright, _FULL_WIDTH), title, units, bbox, projected),
    )


def block_means(values: Field, width: int) -> Field:
    """At most `width` columns and as many rows as keep the cells square: the mean of each block's values.

    Missing values (NaN) do not count; a block of nothing else stays NaN.
    """
    rows, columns = values.shape
    width = min(width, columns)
    height = max(1, min(rows, round(rows * width / columns)))
    step = max(1, columns // width // _SAMPLES_A_SIDE)
    thin = values[::step, ::step]
    height, width = min(height, thin.shape[0]), min(width, thin.shape[1])
    present = np.isfinite(thin)
    edges = [np.arange(n) * size // n for n, size in zip((height, width), thin.shape, strict=True)]
    sums, counts = (_block_sums(part, edges) for part in (np.where(present, thin, 0), present))
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts, dtype=np.float32)


def _block_sums(part: NDArray[np.generic], edges: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    by_row = np.add.reduceat(part, edges[0], axis=0, dtype=np.float64)
    return np.asarray(np.add.reduceat(by_row, edges[1], axis=1))


def _thumbnail(values: Field, title: str, units: str) -> str:
    """The best picture that fits; each try gives up some quality, then some pixels."""
    for width, quality in _THUMBNAIL_TRIES:
        small = block_means(values, width)
        markdown = _thumbnail_markdown(small, title, units, quality)
        if len(markdown) < SHOWN_IN_PLACE_CHARACTERS:
            return markdown
    return f"{_shortened(title)}: {_range_words(_limits(block_means(values, _THUMBNAIL_WIDTH)), units)}"


# Width and WEBP quality.
_THUMBNAIL_TRIES = ((96, 40), (96, 25), (96, 15), (96, 8), (96, 3), (96, 0), (64, 5), (48, 0), (32, 0))


def _thumbnail_markdown(small: Field, title: str, units: str, quality: int) -> str:
    low, high = limits = _limits(small)
    pixels = _with_colour_bar(_coloured(small, limits, units), units)
    height, width = pixels.shape[:2]
    webp = base64.b64encode(_webp(pixels, quality)).decode()
    # In units of a pixel of the widest thumbnail; the text stands below the bar.
    tall = math.ceil(height * _THUMBNAIL_WIDTH / width)
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='480' viewBox='0 0 96 {tall + 6}'>"
        f"<image width='96' height='{tall}' href='data:image/webp;base64,{webp}'/>"
        f"<g font-size='5'><text y='{tall + 5}'>{low:.4g}</text>"
        f"<text x='96' y='{tall + 5}' text-anchor='end'>{high:.4g} {units}</text></g></svg>"
        if math.isfinite(low)
        else ""
    )
    if not svg:
        return f"{_shortened(title)}: {_range_words(limits, units)}"
    # Only what ends a URL or a Markdown link is escaped: each escape costs three of the 1,000 characters.
    return f"{_shortened(title)}\n\n![map](data:image/svg+xml,{quote(svg, safe=_URL_SAFE)})"


_URL_SAFE = "/:;,='!*@$&?+.-_~"
_TITLE_CHARACTERS = 120


def _shortened(title: str) -> str:
    return title if len(title) <= _TITLE_CHARACTERS else title[: _TITLE_CHARACTERS - 1] + "…"


def _range_words(limits: tuple[float, float], units: str) -> str:
    low, high = limits
    return f"{low:.4g} to {high:.4g} {units}" if math.isfinite(low) else "no value anywhere"


def _limits(small: Field) -> tuple[float, float]:
    """Lowest and highest mean: the ends of the colour bar. NaN where there is no value."""
    present = small[np.isfinite(small)]
    return (float(present.min()), float(present.max())) if present.size else (math.nan, math.nan)


def _coloured(small: Field, limits: tuple[float, float], units: str) -> NDArray[np.uint8]:
    import matplotlib

    low, high = limits
    span = high - low if high > low else 1.0
    share = np.nan_to_num((small - low) / span, nan=0.0)
    colours = matplotlib.colormaps[_colour_map(units)](share)[..., :3]
    pixels = np.round(colours * 255).astype(np.uint8)
    pixels[~np.isfinite(small)] = list(bytes.fromhex(_NO_VALUE[1:]))
    return np.asarray(pixels)


def _with_colour_bar(pixels: NDArray[np.uint8], units: str) -> NDArray[np.uint8]:
    """The bar as the picture's last rows: as a gradient in the SVG it would cost 150 characters."""
    width = pixels.shape[1]
    ramp = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (3, width))
    gap = np.full((1, width, 3), 255, dtype=np.uint8)
    return np.concatenate([pixels, gap, _coloured(ramp, (0.0, 1.0), units)])


def _webp(pixels: NDArray[np.uint8], quality: int) -> bytes:
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


def _full(cells: Field, title: str, units: str, bbox: Box, projected: bool) -> bytes:
    """A map with axes, title and colour bar. No pyplot: its global state is not for threads."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    west, south, east, north = bbox
    figure = Figure(figsize=_figure_size(cells.shape), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.colormaps[_colour_map(units)].with_extremes(bad=_NO_VALUE)
    low, high = _limits(cells)
    extent = None if projected else (west, east, south, north)
    image = axes.imshow(cells, cmap=colours, vmin=low, vmax=high, extent=extent, aspect="equal")
    axes.set_title(title if math.isfinite(low) else f"{title} (no value anywhere)", fontsize=10)
    if projected:
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(
            f"projected grid between {west:.1f}° and {east:.1f}° E, {south:.1f}° and {north:.1f}° N"
        )
    else:
        axes.set(xlabel="longitude, °E", ylabel="latitude, °N")
    figure.colorbar(image, ax=axes, label=units, shrink=0.85, pad=0.02)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    return _as_webp(buffer.getvalue())


def _figure_size(shape: tuple[int, ...]) -> tuple[float, float]:
    """Inches: 9 wide; as high as the map beside its colour bar, with room for title and axis."""
    rows, columns = shape
    return 9.0, min(max(7.2 * rows / columns, 1.5), 9.0) + 0.9


def _as_webp(png: bytes) -> bytes:
    import PIL.Image

    buffer = io.BytesIO()
    with PIL.Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=_FULL_QUALITY)
    return buffer.getvalue()


def _colour_map(units: str) -> str:
    return _COLOUR_MAPS.get(units, "viridis")


# Colours that a forecaster expects; viridis for the rest.
_COLOUR_MAPS = {
    "K": "RdYlBu_r",
    "dBZ": "turbo",
    "1": "gray",
    "kg m-2": "YlGnBu",
    "mm h-1": "YlGnBu",
    "%": "PuBu",
}

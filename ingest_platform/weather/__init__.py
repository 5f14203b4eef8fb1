"""Weather grids: GFS, HRRR, GOES and MRMS, from bucket to xarray."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest_platform.weather.read import NotPublished, open_weather

__all__ = ["NotPublished", "open_weather"]


def __getattr__(name: str) -> Any:
    """Import readers at first use: xarray and Icechunk would cost every code location two seconds."""
    if name in __all__:
        from ingest_platform.weather import read

        return getattr(read, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

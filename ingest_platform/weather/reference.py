"""The tables of docs/weather.md, made from the schema, the template language and the shipped models.

`python -m ingest_platform.weather.reference` writes them into the page; a test compares. No network.
"""

from pathlib import Path

from pydantic import BaseModel

from ingest_platform.manual import environment_table, settings_table, table
from ingest_platform.manual import with_tables as page_with_tables
from ingest_platform.settings import SETTINGS
from ingest_platform.weather.config import load_models
from ingest_platform.weather.keys import NUMBER_FIELDS, TEXT_FIELDS, TIME_FIELDS
from ingest_platform.weather.model import Horizon, Kind, LeadRange, Model, Parameter, Source, Window

PAGE = Path(__file__).parents[2] / "docs" / "weather.md"


def tables() -> dict[str, str]:
    """Every generated table in Markdown, by the name that its marker in the page has."""
    sections: dict[str, type[BaseModel]] = {
        "model": Model,
        "source": Source,
        "horizon": Horizon,
        "lead": LeadRange,
        "parameter": Parameter,
    }
    return {
        "models": _models(),
        "grids": _grids(),
        "fields": _fields(),
        "windows": _windows(),
        "environment": environment_table(SETTINGS),
        **{name: settings_table(section) for name, section in sections.items()},
    }


def with_tables(page: str) -> str:
    """The page with every marked table made anew. ValueError if a table has no marker."""
    return page_with_tables(page, tables())


def _models() -> str:
    head = ("model", "also called", "bucket", "listed every", "usual delay", "kept", "newest kept")
    return table(
        head,
        (
            (
                f"`{m.id}`: {m.title}",
                ", ".join(f"`{name}`" for name in (*m.aliases, *({m.family} - {m.id}))),
                f"`{m.sources[-1].bucket}`",
                _span(m.poll_interval_seconds),
                _span(m.delay_minutes * 60),
                _span(m.retention_hours * 3600),
                f"{m.keep_latest} {'cycles' if m.kind is Kind.FORECAST else 'hours'}",
            )
            for m in load_models()
        ),
    )


def _grids() -> str:
    return table(
        ("model", "array", "units", "what it is", "levels, window"),
        (
            (f"`{m.id}`", f"`{p.name}`", p.units, p.long_name, _where(p))
            for m in load_models()
            for p in m.parameters
        ),
    )


def _where(parameter: Parameter) -> str:
    if parameter.levels_hpa:
        return ", ".join(map(str, parameter.levels_hpa)) + " hPa"
    place = parameter.level or parameter.product or f"band {parameter.band}"
    return place if parameter.window is Window.INSTANT else f"{place}, {parameter.window}"


def _fields() -> str:
    forms = {
        **dict.fromkeys(TIME_FIELDS, "`:%Y%m%d`, … of %Y %m %d %j %H %M %S %t; none: ABI's 14 digits"),
        **dict.fromkeys(NUMBER_FIELDS, "`:03` pads with zeros"),
        **dict.fromkeys(TEXT_FIELDS, "none"),
    }
    meanings = TIME_FIELDS | NUMBER_FIELDS | TEXT_FIELDS
    rows = ((f"`{{{name}}}`", meaning, forms[name]) for name, meaning in meanings.items())
    return table(("field", "meaning", "format"), rows)


def _windows() -> str:
    meanings = {
        Window.INSTANT: "the value at the valid time",
        Window.ACC_RUN: "accumulated since the cycle",
        Window.ACC_RECENT: "accumulated since the model's last reset",
        Window.AVE_RECENT: "averaged since the last reset",
        Window.MAX_RECENT: "highest since the last reset",
        Window.MIN_RECENT: "lowest since the last reset",
    }
    return table(("window", "which message"), ((f"`{w.value}`", meanings[w]) for w in Window))


def _span(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

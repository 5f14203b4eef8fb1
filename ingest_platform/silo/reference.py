"""The tables of docs/silo.md, made from the settings' schema and the container's environment.

`python -m ingest_platform.silo.reference` writes them into the page; a test compares. No network.
"""

from pathlib import Path

from ingest_platform.manual import environment_table, settings_table
from ingest_platform.manual import with_tables as page_with_tables
from ingest_platform.silo.config import ENVIRONMENT
from ingest_platform.silo.model import EngineSettings, Organism, Timeouts

PAGE = Path(__file__).parents[2] / "docs" / "silo.md"


def tables() -> dict[str, str]:
    """Every generated table in Markdown, by the name that its marker in the page has."""
    return {
        "organism": settings_table(Organism),
        "timeouts": settings_table(Timeouts),
        "engine": settings_table(EngineSettings),
        "environment": environment_table(ENVIRONMENT),
    }


def with_tables(page: str) -> str:
    """The page with every marked table made anew. ValueError if a table has no marker."""
    return page_with_tables(page, tables())


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

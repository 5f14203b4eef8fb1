"""Tables inside the pages of docs/, made from what the code knows: a page cannot say what is no longer so.

Knows pydantic models and Markdown, no source: each source's `reference.py` says which tables its page has.
"""

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

# A table stands between these two lines of a page.
BEGIN, END = "<!-- table: {name} -->", "<!-- end -->"


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with every marked table made anew. ValueError if a table has no marker."""
    for name, made in tables.items():
        begin = BEGIN.format(name=name)
        marked = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        if not marked.search(page):
            raise ValueError(f"the page has no place for the table {name!r}: add {begin} and {END}")
        page = marked.sub(lambda _, text=f"{begin}\n{made}\n{END}": text, page)  # type: ignore[misc]
    return page


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def settings_table(section: type[BaseModel]) -> str:
    """One row a setting: name, type, default, meaning."""
    return table(
        ("setting", "type", "default", "meaning"),
        (
            (f"`{name}`", _type(field.annotation), _default(field), field.description or "")
            for name, field in section.model_fields.items()
        ),
    )


def environment_table(variables: Mapping[str, tuple[str, str]]) -> str:
    """One row a variable: name, default, meaning."""
    return table(
        ("variable", "default", "meaning"),
        ((f"`{name}`", default, meaning) for name, (default, meaning) in variables.items()),
    )


def _type(annotation: Any) -> str:
    """A type in a user's words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inside[0])
    if origin is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in inside)
    if origin in (Union, types.UnionType):
        return _type(next(a for a in inside if a is not type(None)))
    if origin is tuple:
        return f"list of {_type(inside[0])}" if inside[-1] is ... else f"[{', '.join(map(_type, inside))}]"
    if origin is dict:
        return f"{_type(inside[0])} → {_type(inside[1])}"
    if issubclass(annotation, StrEnum):
        return "one of " + ", ".join(f"`{choice.value}`" for choice in annotation)
    if issubclass(annotation, BaseModel):
        return f"{annotation.__name__}, below"
    names: dict[type, str] = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true/false",
        datetime: "time",
        Path: "path",
    }
    return names[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default_factory is not None or field.default is None or field.default == ():
        return ""
    return f"`{str(field.default).lower()}`"

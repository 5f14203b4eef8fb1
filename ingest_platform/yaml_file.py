"""A YAML file of settings and the places in it, for the people who must correct it.

Says which line and key a mistake is at, and which setting was probably meant. What a mistake means, and which
error it is, is the caller's.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

type Place = tuple[str | int, ...]  # keys and positions from the top of a file, as pydantic names them
type Mistake = tuple[Place, str]

# Type of a schema's own fault whose value, a secret, is not to be shown.
UNSHOWN = "unshown"


class BadYamlFile(ValueError):
    """What is wrong with a file before anybody looks for settings in it, a line each, each with its place."""


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file that was read. `content` is None where it is empty."""

    path: Path
    content: Any
    _node: yaml.Node | None = field(repr=False)

    def told(self, mistakes: Iterable[Mistake]) -> str:
        """The mistakes, a line each: models/own.yaml:14: sources[0].key: what is wrong."""
        return "\n".join(
            f"{self.path}:{_line(self._node, place)}: {dotted(place)}{what}" for place, what in mistakes
        )


def read_yaml(path: Path) -> YamlFile:
    """The file's content. BadYamlFile: it cannot be read, is no YAML, or has a key twice."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        twice = list(_keys_given_twice(node))
        content = loader.construct_document(node) if node and not twice else None
    except (OSError, UnicodeDecodeError) as error:
        raise BadYamlFile(f"{path}: cannot be read ({error}).") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadYamlFile(f"{path}:{line}: not YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise BadYamlFile(f"{path}: not YAML: {error}.") from error
    file = YamlFile(path, content, node)
    if twice:
        raise BadYamlFile(file.told(twice))
    return file


def _keys_given_twice(node: yaml.Node | None, place: Place = ()) -> Iterator[Mistake]:
    """YAML would quietly take the last one."""
    if isinstance(node, yaml.MappingNode):
        counts = Counter(str(key.value) for key, _ in node.value)
        yield from (((*place, key), "given twice") for key, count in counts.items() if count > 1)
        for key, value in node.value:
            yield from _keys_given_twice(value, (*place, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for n, value in enumerate(node.value):
            yield from _keys_given_twice(value, (*place, n))


def said_by_schema(error: ValidationError, model: type[BaseModel], *, above: Place = ()) -> Iterator[Mistake]:
    """What pydantic found wrong, with the setting that was probably meant. `above`: the model's place."""
    for fault in error.errors(include_url=False):
        place = tuple(part for part in fault["loc"] if part != "[key]")
        what = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            guess = get_close_matches(str(place[-1]), _known_keys(model, place), n=1)
            what = "no such setting" + (f". Did you mean {guess[0]}?" if guess else "")
        elif fault["type"] not in ("missing", UNSHOWN) and not isinstance(fault["input"], dict):
            what += f", found {fault['input']!r}"
        yield (*above, *place), what


def _known_keys(model: type[BaseModel], place: Place) -> list[str]:
    """Settings that the schema knows where the unknown one stands."""
    schema = model.model_json_schema()
    level = schema
    for step in place[:-1]:
        level = level.get("items", {}) if isinstance(step, int) else level.get("properties", {}).get(step, {})
        if "$ref" in level:
            level = schema["$defs"][level["$ref"].rsplit("/", 1)[-1]]
    return list(level.get("properties", {}))


def dotted(place: Place) -> str:
    """sources[0].key: as a person points at it, with a colon behind; nothing for the file as a whole."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return f"{text.removeprefix('.')}: " if text else ""


def _line(node: yaml.Node | None, place: Place) -> int:
    """Line, from 1, of the last part of `place` that the file has."""
    line = node.start_mark.line if node else 0
    for step in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
        else:
            break
    return line + 1

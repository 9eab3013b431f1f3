"""The things that users build on, as plain data: HTTP API, settings, commands and events.

`python -m tests.support.surface` writes them to surface.json, whose difference shows users what changes.
"""

import json
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click

from meshwright.core.payloads import Payload, event_family, fact_fields
from meshwright.core.settings.model import built_in

FILE = Path(__file__).with_suffix(".json")
_ABSENT = object()
_MAX_CHARS = 200  # of a value in a difference
_TOOL = Path(__file__).resolve().parents[2] / "tools/reference.py"


@cache
def surface() -> dict[str, Any]:
    """Returns them, part by part."""
    tool = runpy.run_path(str(_TOOL))
    mesh = tool["application"]().state.mesh
    tree = tool["command_tree"]()
    document = {
        "openapi": {**tool["application"]().openapi(), "info": {}},
        "settings": _inlined(schema := built_in().model_json_schema(), schema["$defs"]),
        "commands": {path: _parameters(command) for path, command in tree.items()},
        "events": list(tool["events"]()),
        "facts": _facts(mesh.events),
    }
    return json.loads(json.dumps(document, default=str))


def differences(old: Any, new: Any, path: str) -> Iterator[str]:
    """Yields a line for each value that differs: its path, and how it was and is."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = ({f"[{n}]": item for n, item in enumerate(items)} for items in (old, new))
    elif isinstance(old, dict) and isinstance(new, dict):
        old, new = ({f".{key}": value for key, value in items.items()} for items in (old, new))
    else:
        if old != new:
            same = _same_chars(old, new) if isinstance(old, str) and isinstance(new, str) else 0
            yield f"{path}: {_shown(old, same)} -> {_shown(new, same)}"
        return
    for key in sorted({*old, *new}):
        yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), path + key)


def _same_chars(old: str, new: str) -> int:
    pairs = zip(old, new, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(old), len(new)))


def _shown(value: Any, same: int) -> str:
    """The beginning of a value as JSON; of a long text from shortly before the first difference."""
    if same > _MAX_CHARS // 2:
        value = f"...{value[same - _MAX_CHARS // 4 :]}"
    text = "absent" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."


def _facts(kinds: dict[str, type[Payload]]) -> dict[str, list[str]]:
    """The fields that are facts, by type of event or `family.*`, as the file names them."""
    names = {*json.loads(FILE.read_text())["facts"]} if FILE.exists() else set()
    facts: dict[str, set[str]] = {}
    for event_type, kind in kinds.items():
        name = event_type if event_type in names else event_family(event_type)
        facts.setdefault(name, set()).update(fact_fields(kind))
    return {name: sorted(fields) for name, fields in facts.items() if fields}


def _inlined(schema: Any, classes: dict[str, Any]) -> Any:
    """Returns a schema without the names of classes, which are no part of it."""
    if isinstance(schema, list):
        return [_inlined(item, classes) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        schema = classes[schema["$ref"].rpartition("/")[2]] | {k: v for k, v in schema.items() if k != "$ref"}
    return {key: _inlined(value, classes) for key, value in schema.items() if key not in ("$defs", "title")}


def _parameters(command: click.Command) -> list[str]:
    return [f"{type(param).__name__} {' '.join(param.opts)} {param.type.name}" for param in command.params]


if __name__ == "__main__":
    FILE.write_text(json.dumps(surface(), indent=0, sort_keys=True) + "\n")

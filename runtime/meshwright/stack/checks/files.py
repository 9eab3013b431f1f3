"""Whether the component files are what daprd can use, and which line of them it does not like.

daprd leaves out a file that it cannot read, and is ready all the same: so they are read here first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from meshwright.errors import ConfigError

COMMON = {
    "env.yaml": ("Component", "env"),
    "state.yaml": ("Component", "state"),
    "resiliency.yaml": ("Resiliency", "mesh"),
    "config.yaml": ("Configuration", "mesh"),
    "loopback.yaml": ("Configuration", "loopback"),
}
OF_A_BUS = {"bus.yaml": ("Component", "bus"), "views.yaml": ("Component", "views")}
SECRET_STORE = "env"
REMEDY = "mend it, or copy the file of that name that comes with Meshwright"


def files_of(components: Path, bus: str) -> dict[Path, tuple[str, str]]:
    """The files that daprd is given, with the kind and name that each has to have."""
    common = {components / name: wanted for name, wanted in COMMON.items()}
    return common | {components / f"{bus}-bus" / name: wanted for name, wanted in OF_A_BUS.items()}


def check_files(components: Path, bus: str) -> None:
    """Read every file. Raises ConfigError with file and line."""
    for path, (kind, name) in files_of(components, bus).items():
        document = _read(path)
        _expect(path, document, ("kind",), kind)
        _expect(path, document, ("metadata", "name"), name)
        store = _at(document, ("auth", "secretStore"))
        if store is not None and store.value != SECRET_STORE:
            raise _wrong(path, store, f"secretStore has to be {SECRET_STORE}, not {store.value!r}")


def line_of(components: Path, bus: str, component: str, message: str) -> str:
    """Where a component is that daprd refused: `path:line`, at the field that its message quotes, if any."""
    for path, (kind, name) in files_of(components, bus).items():
        if (kind, name) == ("Component", component):
            lines = path.read_text("utf-8").splitlines()
            return f"{path}:{next(_lines_of_fields(lines, message), 1)}"
    return str(components)


def _lines_of_fields(lines: list[str], message: str) -> Iterator[int]:
    """The lines that set a field which the message names in quotes, or as `missing NAME`; then its type."""
    fields = [quoted or missing for quoted, missing in re.findall(r"['\"](\w+)['\"]|missing (\w+)", message)]
    for pattern in [*(rf"\s*- name: {field}\b" for field in fields), r"\s*type:"]:
        yield from (number for number, line in enumerate(lines, start=1) if re.match(pattern, line))


def _read(path: Path) -> yaml.Node:
    try:
        document = yaml.compose(path.read_text("utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigError(
            f"is not YAML: {error.problem}", path=str(path), line=line, remedy=REMEDY
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", path=str(path), remedy=REMEDY) from error
    if document is None:
        raise ConfigError("is empty", path=str(path), remedy=REMEDY)
    return document


def _expect(path: Path, document: yaml.Node, keys: tuple[str, ...], wanted: str) -> None:
    found = _at(document, keys)
    if found is None or found.value != wanted:
        what = "is missing" if found is None else f"is {found.value!r}"
        raise _wrong(path, found or document, f"{'.'.join(keys)} has to be {wanted!r}, but {what}")


def _at(node: yaml.Node | None, keys: tuple[str, ...]) -> yaml.Node | None:
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in pairs if name.value == key), None)
    return node


def _wrong(path: Path, node: yaml.Node, message: str) -> ConfigError:
    return ConfigError(message, path=str(path), line=node.start_mark.line + 1, remedy=REMEDY)

"""The types of component files, compared with those that a daprd knows."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from meshwright.kit import ConfigError, nearest
from meshwright.parts.stack.machine import environment_with

_INITIAL_VERSIONS = ("", "v0", "v1")  # are the same to daprd
_VOLATILE = ("state.in-memory",)
_SECONDS = 10.0

KnownTypes = Mapping[str, Collection[str]]
"""The versions of each type of component, such as `state.redis`."""


def known_types(daprd: Path) -> KnownTypes | None:
    """The types that a daprd of `make dapr` knows; None for another, which does not say. Blocks meanwhile."""
    try:
        output = subprocess.run(
            [daprd, "--known-components"],
            env=environment_with(),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if output.returncode:
        return None
    versions: dict[str, set[str]] = defaultdict(set)
    for line in output.stdout.split():
        name, _, version = line.partition("/")
        versions[name].add(version)
    return versions


def check_types(components: Path, bus: str, known: KnownTypes) -> int:
    """Returns how many components there are. Raises ConfigError for one of a type that is not known."""
    count = 0
    for path, document in _components(components, bus):
        _check_type(path, document, known)
        count += 1
    return count


def volatile_stores(components: Path, bus: str) -> Iterator[str]:
    """A sentence for each state store that keeps nothing on disk."""
    for path, document in _components(components, bus):
        node = _scalar(document, "spec", "type")
        if node is not None and node.value.lower() in _VOLATILE:
            yield (
                f"{path}:{node.start_mark.line + 1}: {node.value} keeps nothing on disk: accepted tasks are "
                "lost when a sidecar ends; use state.redis or state.postgresql"
            )


def _components(components: Path, bus: str) -> Iterator[tuple[Path, Node]]:
    for folder in (components, components / f"{bus}-bus"):
        for path in sorted(folder.glob("*.yaml")):
            for document in _documents(path):
                if (kind := _scalar(document, "kind")) is not None and kind.value == "Component":
                    yield path, document


def _check_type(path: Path, document: Node, known: KnownTypes) -> None:
    node, version_node = _scalar(document, "spec", "type"), _scalar(document, "spec", "version")
    if node is None:  # daprd says so itself
        return
    name, version = node.value.lower(), "" if version_node is None else version_node.value.lower()
    if name not in known:
        kind = f"{name.partition('.')[0]}."
        near = nearest(name, [other for other in known if other.startswith(kind)])
        names = sorted(other for other in known if other.startswith(kind)) or sorted(known)
        hint = f"Did you mean {near}? " if near else ""
        remedy = f"{hint}It knows {', '.join(names)}; set MESH_DAPR_BIN to one that knows others"
        raise _refusal(path, node, f"this daprd knows no component type {node.value!r}", remedy)
    versions = sorted(known[name])
    is_initial = version in _INITIAL_VERSIONS and "v1" in versions
    if not (is_initial or version in versions or (not version and len(versions) == 1)):
        problem = f"this daprd knows {name} in {' and '.join(versions)}, not in {version}"
        remedy = f"Write `version: {versions[-1]}`, with the metadata of that version"
        raise _refusal(path, version_node or node, problem, remedy)


def _refusal(path: Path, node: Node, problem: str, remedy: str) -> ConfigError:
    return ConfigError(problem, path=str(path), line=node.start_mark.line + 1, remedy=remedy)


def _documents(path: Path) -> Iterator[Node]:
    with suppress(yaml.YAMLError, UnicodeDecodeError):  # daprd says so itself
        documents: Iterator[Node | None] = yaml.compose_all(path.read_text("utf-8"), Loader=yaml.SafeLoader)
        yield from (document for document in documents if document is not None)


def _scalar(node: Node | None, *names: str) -> ScalarNode | None:
    """The text at a place of a document."""
    for name in names:
        if not isinstance(node, MappingNode):
            return None
        node = next((value for key, value in node.value if key.value == name), None)
    return node if isinstance(node, ScalarNode) else None

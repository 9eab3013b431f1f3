"""The parts of a mesh as they are known without one: commands, words of events, things that they keep.

Ours are named in `meshwright.parts`, and each is imported when it is asked for; components of installed
packages are asked themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from meshwright.core.display import EventWords, Resource
from meshwright.core.errors import NotFound
from meshwright.core.plugins import COMPONENTS, installed
from meshwright.parts import BUILTIN, imported

if TYPE_CHECKING:
    from meshwright.component import Component


def brought() -> Iterator[type[Component]]:
    """The components of installed packages. Raises ConfigError for one that cannot be loaded."""
    for plugin in installed(COMPONENTS):
        yield plugin.load()


def event_words() -> Mapping[str, EventWords]:
    """How the events of all parts read, by type; `family.*` stands for the other types of a family."""
    words: dict[str, EventWords] = {}
    for component in brought():
        words |= component.event_words
    for part in BUILTIN:
        words |= imported(part.words) if part.words else {}
    return words


def resource(name: str) -> Resource:
    """The things of a name that some part keeps. Raises NotFound."""
    found: list[Resource] = []
    for component in brought():
        found += component.resources
    for part in BUILTIN:
        found += imported(part.resources) if part.resources else ()
    known = {kept.name: kept for kept in found}
    if name not in known:
        raise NotFound(f"No part of the mesh keeps {name!r}", remedy=f"There are {', '.join(sorted(known))}")
    return known[name]

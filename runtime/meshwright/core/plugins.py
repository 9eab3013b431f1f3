"""What other packages bring to a mesh, by entry points.

[project.entry-points."meshwright.components"]
pager = "acme.mesh:Pager"
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from itertools import pairwise
from typing import Any, NamedTuple

from meshwright.core.errors import ConfigError, nearest

COMPONENTS = "meshwright.components"
AGENTS = "meshwright.agents"
TOOLSETS = "meshwright.toolsets"
STORES = "meshwright.stores"
MODELS = "meshwright.models"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for a name that is nearly a known one; empty where it is not."""
    near = nearest(name, known)
    return f"Did you mean {near!r}?" if near else ""


class _Plugin(NamedTuple):
    """One entry point of a group."""

    entry: EntryPoint

    @property
    def name(self) -> str:
        """The name that it is registered under."""
        return self.entry.name

    @property
    def value(self) -> str:
        """The module, and the object in it."""
        return self.entry.value

    @property
    def package(self) -> str:
        """The distribution that brings it."""
        return self.entry.dist.name if self.entry.dist else "its package"

    def load(self) -> Any:
        """Import it. Raises ConfigError, which names the package, where that fails."""
        try:
            return self.entry.load()
        except Exception as error:  # a stranger's module may raise anything
            raise ConfigError(
                f"{self.entry.group} {self.name!r} of {self.package} cannot be loaded: "
                f"{type(error).__name__}: {' '.join(str(error).split())}",
                remedy=f"Upgrade or uninstall {self.package}",
            ) from error

    def taken(self, name: str) -> ConfigError:
        """The error that it has the name of another."""
        return ConfigError(
            f"The component {self.value} has the name {name!r}, which is taken",
            remedy=f"Uninstall {self.package}, or have its author choose another name",
        )


@lru_cache(maxsize=1)
def _entry_points(path: tuple[str, ...]) -> Any:
    """Those of all packages on the path, read once: each file of each package takes its time."""
    return entry_points()


def installed(group: str) -> list[_Plugin]:
    """What the installed packages bring of a group, by name. Raises ConfigError where two share a name."""
    entries = _entry_points(tuple(sys.path)).select(group=group)
    plugins = sorted(map(_Plugin, entries), key=lambda plugin: plugin.name)
    for one, other in pairwise(plugins):
        if one.name == other.name:
            raise ConfigError(
                f"{group} {one.name!r} is brought by {one.package} and by {other.package}",
                remedy="Uninstall one of them",
            )
    return plugins

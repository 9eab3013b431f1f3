"""Plugins: the parts that other packages bring to a mesh, by entry points.

[project.entry-points."meshwright.components"]
pager = "acme.mesh:Pager"
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from meshwright.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

COMPONENTS = "meshwright.components"
AGENTS = "meshwright.agents"
TOOLSETS = "meshwright.toolsets"
SKILLS = "meshwright.skills"
STORES = "meshwright.stores"
MODELS = "meshwright.models"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A remedy for a name that is nearly a known one; empty where it is not."""
    near = nearest(name, names)
    return f"Did you mean {near!r}?" if near else ""


class _Plugin(NamedTuple):
    """One entry point of a group."""

    entry: EntryPoint

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def value(self) -> str:
        return self.entry.value

    @property
    def package(self) -> str:
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
    """The entry points of the packages on the path, read once; None where none can be of a mesh.

    Few packages bring something to a mesh, and importlib takes 40 ms to read all of them: a look at their
    files comes first.
    """
    if not any(b"[meshwright." in listing for listing in _listings(path)):
        return None
    from importlib.metadata import entry_points

    return entry_points()


def _listings(path: tuple[str, ...]) -> Iterator[bytes]:
    for folder in path:
        if os.path.isfile(folder):  # a zip archive, which importlib reads
            yield b"[meshwright."
        for name in glob.glob("*-info/entry_points.txt", root_dir=folder or "."):
            with suppress(OSError), open(os.path.join(folder, name), "rb") as file:
                yield file.read().replace(b" ", b"")


def installed(group: str) -> list[_Plugin]:
    """The plugins of a group that are installed, by name. Raises ConfigError where two share a name."""
    entry_points = _entry_points(tuple(sys.path))
    entries: Iterable[EntryPoint] = () if entry_points is None else entry_points.select(group=group)
    plugins = sorted(map(_Plugin, entries), key=lambda plugin: plugin.name)
    for one, other in pairwise(plugins):
        if one.name == other.name:
            raise ConfigError(
                f"{group} {one.name!r} is brought by {one.package} and by {other.package}",
                remedy="Uninstall one of them",
            )
    return plugins


def missing_package(extra: str, need: str, error: ImportError, field: str) -> ConfigError:
    """The error for a package of an extra that cannot be imported; `need` says what needs which package."""
    message = f"{need}, which cannot be imported: {error}"
    return ConfigError(message, remedy=install_command(extra), field=field)


def install_command(extra: str) -> str:
    """The command that installs an extra: from the checkout, the archive or the index that this came from."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution  # 10 ms, which `mesh --help` spares
    from urllib.parse import unquote, urlsplit

    origin: dict[str, Any] = {}
    with suppress(PackageNotFoundError):  # the source without an installation
        origin = json.loads(distribution("meshwright").read_text("direct_url.json") or "{}")
    url = origin.get("url", "")
    if url.startswith("file:") and "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}'{unquote(urlsplit(url).path)}[{extra}]'"
    return f"pip install 'meshwright[{extra}]{f' @ {url}' if url else ''}'"


def require_sdk() -> None:
    """Raise ConfigError where the Dapr SDK is not installed, without importing it."""
    if find_spec("dapr") is None or find_spec("grpc") is None:
        problem = "a mesh on Dapr needs the Dapr SDK, which is not installed"
        raise ConfigError(problem, remedy=install_command("dapr"), field="host")

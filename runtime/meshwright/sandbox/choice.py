"""The sandbox of a process: chooses a box, and tries it once before anything runs in it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.sandbox.bubblewrap import Bubblewrap
from meshwright.sandbox.execution import PROXY_VARIABLES, START, BoxJob
from meshwright.sandbox.groups import remove_left_over as remove_left_over_groups
from meshwright.sandbox.landlock import Landlock
from meshwright.sandbox.landlock import remove_left_over as remove_left_over_folders
from meshwright.sandbox.port import BoxLimits, SandboxResult
from meshwright.sandbox.probe import ATTEMPTS, Box, broken_out_of
from meshwright.sandbox.proxy import HostProxy, Place, parse_place
from meshwright.sandbox.settings import SandboxSettings
from meshwright.sandbox.unboxed import NoBox
from meshwright.sql.folder import read_private, write_private

_logger = logging.getLogger("meshwright.sandbox")
_BOXES: Mapping[str, Callable[[], Box]] = {"bubblewrap": Bubblewrap, "landlock": Landlock}
_TRIED = "sandbox.json"
_USUAL_LIMITS = BoxLimits()
_NO_BOX = 'docs/sandbox.md says what each box needs; kind = "none" in [sandbox] runs programs without one'


class ChosenSandbox:
    """The `Sandbox` of the settings. It chooses a box when the first program runs, or is asked which it is.

    A box is used only if none of the break-outs gets out of it. The result is kept in the data folder, for
    the same programs, kernel and user. `tell` hears of each host that a run was not let to.
    """

    def __init__(
        self,
        settings: SandboxSettings,
        data_dir: Path,
        *,
        tell: Callable[[Place, str], None] = lambda place, reason: None,
        boxes: Mapping[str, Callable[[], Box]] = _BOXES,
    ) -> None:
        self._settings = settings
        self._data_dir = data_dir.resolve()
        self._tell = tell
        self._boxes = boxes
        self._box: Box | None = NoBox() if settings.kind == "none" else None
        self._choosing = asyncio.Lock()
        self.reasons: dict[str, str] = {}
        """Why boxes are not used, by their names."""

    @property
    def name(self) -> str:
        """`bubblewrap`, `landlock` or `none`; `auto` before one is chosen."""
        return self._settings.kind if self._box is None else self._box.name

    async def run(
        self,
        argv: Sequence[str],
        tree: Path,
        *,
        limits: BoxLimits = _USUAL_LIMITS,
        network: Sequence[str] = (),
        env: Mapping[str, str] = {},
        read: Sequence[Path] = (),
    ) -> SandboxResult:
        """Run a program in the box, as `Sandbox` says it. Raises ToolFailed, InvalidInput."""
        if not argv or any("\0" in word for word in (*argv, *env, *env.values())):
            raise InvalidInput("expected a program and its arguments, without null characters", field="argv")
        folders = [*self._settings.read, *read]
        tree = self._checked(tree, folders)
        places = self._places(network)
        box = await self.choose()
        if places and not box.has_network:
            remedy = "Install bubblewrap, whose box can have a network"
            raise ToolFailed(f"The box of {box.name} has no network", remedy=remedy)
        is_private = self._settings.allow_private_addresses
        proxy = HostProxy(places, allow_private=is_private, tell=self._tell) if places else None
        bounded = limits.within(self._settings.limits)
        return await box.run(BoxJob(argv, tree, bounded, env, folders, proxy))

    async def choose(self) -> Box:
        """The box, chosen and tried once. Raises ToolFailed, with the remedy, where none works here."""
        async with self._choosing:
            if self._box is None:
                remove_left_over_groups()
                remove_left_over_folders()
                self._box = await self._first_that_holds()
        return self._box

    async def _first_that_holds(self) -> Box:
        kind = self._settings.kind
        self.reasons.clear()
        for name in self._boxes if kind == "auto" else (kind,):
            try:
                box = await asyncio.to_thread(self._boxes[name])
                await self._try(box)
            except ToolFailed as error:
                self.reasons[name] = str(error)
                _logger.info("The box of %s is not used: %s", name, error)
            else:
                return box
        why = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        raise ToolFailed(f"No program runs without a box, and none works here: {why}", remedy=_NO_BOX)

    async def _try(self, box: Box) -> None:
        """Raises ToolFailed where a box does not start, or lets a break-out through."""
        key = _fingerprint(box)
        file = self._data_dir / _TRIED
        with suppress(OSError, ValueError):
            if json.loads(read_private(file)).get(box.name) == key:
                return
        out = await broken_out_of(box)
        if out:
            raise ToolFailed(f"Break-outs get out of it: {', '.join(out)}")
        fingerprints: dict[str, str] = {}
        with suppress(OSError, ValueError):
            fingerprints = dict(json.loads(read_private(file)))
        with suppress(OSError):  # without a data folder it is tried again
            write_private(file, json.dumps(fingerprints | {box.name: key}))

    def _checked(self, tree: Path, folders: Sequence[Path]) -> Path:
        """The tree without links. Raises ToolFailed where the mesh's own data would be in the box."""
        tree = tree.resolve()
        if not tree.is_dir():
            raise ToolFailed(f"{tree} is no folder to run a program in")
        for folder in (tree, *(folder.resolve() for folder in folders)):
            if self._data_dir.is_relative_to(folder):
                raise ToolFailed(
                    f"{folder} holds the data of the mesh, which no program in a box may see",
                    remedy="Name a smaller folder, or move the data folder",
                )
        return tree

    def _places(self, network: Sequence[str]) -> list[Place]:
        """The places that a run may call. Raises ToolFailed for places that the settings do not allow."""
        allowed = [parse_place(text) for text in self._settings.allow_hosts]
        places = [parse_place(text) for text in network]
        for place in places:
            if not any(other.covers(place) for other in allowed):
                remedy = f'Add "{place}" to allow_hosts in [sandbox] of mesh.toml'
                raise ToolFailed(f"No run may call {place}", remedy=remedy)
        return places


def _fingerprint(box: Box) -> str:
    """Stands for all that decides whether a box holds."""
    parts = (box.about, platform.release(), platform.version(), os.getuid(), START, ATTEMPTS, box.filter)
    return hashlib.sha256(repr((*parts, PROXY_VARIABLES)).encode()).hexdigest()

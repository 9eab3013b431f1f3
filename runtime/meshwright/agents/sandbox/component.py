"""The component that provides the box in which tools run programs."""

from __future__ import annotations

import os
from collections.abc import Iterable

from meshwright.agents.sandbox.attempts import NAMES
from meshwright.agents.sandbox.choice import ChosenSandbox
from meshwright.agents.sandbox.event_types import HostRefused
from meshwright.agents.sandbox.port import Sandbox
from meshwright.agents.sandbox.proxy import Place
from meshwright.agents.sandbox.settings import SandboxSettings
from meshwright.core.errors import ConfigError, ToolFailed
from meshwright.mesh.components import Check, Component
from meshwright.mesh.mesh import Mesh


class SandboxComponent(Component):
    """Provides `Sandbox`: tools get it by `mesh.get(Sandbox)`."""

    name = "sandbox"
    config: SandboxSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        data_dir = mesh.project / mesh.settings.data_dir
        self._sandbox = ChosenSandbox(self.config, data_dir, tell=self._tell_refused)
        mesh.provide(self._sandbox, Sandbox)

    def checks(self) -> Iterable[Check]:
        """Tries the box."""
        return (Check("sandbox", self._check),)

    def warnings(self) -> Iterable[str]:
        """That there is no box, where the settings say so."""
        if self.config.kind == "none":
            return ('kind = "none" in [sandbox]: what agents run may do everything that this user may',)
        return ()

    def _tell_refused(self, place: Place, reason: str) -> None:
        self.mesh.tell(HostRefused(host=place.host, port=place.port, reason=reason))

    async def _check(self) -> str:
        try:
            box = await self._sandbox.choose()
        except ToolFailed as error:
            if self.config.kind != "auto":
                raise ConfigError(error.message, remedy=error.remedy) from error
            return f"tools that run programs are refused. {error}"
        others = "".join(f"; not {name}: {reason}" for name, reason in self._sandbox.reasons.items())
        if box.name == "none":
            return "none: what agents run may do everything that this user may"
        root = "; as root it is weaker, so run the mesh as a user of its own" if os.getuid() == 0 else ""
        return f"{box.about}: none of {len(NAMES)} break-outs gets out{others}{root}"

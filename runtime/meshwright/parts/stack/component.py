"""The component of a mesh on Dapr: checks the component files of a project."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from meshwright.component import Component
from meshwright.core.errors import ServiceFailed
from meshwright.core.part import Caution
from meshwright.kit import ConfigError
from meshwright.mesh.components import Check
from meshwright.parts.stack.component_files import check_types, known_types, volatile_stores
from meshwright.parts.stack.machine import components_folder, find_program, has_components
from meshwright.parts.stack.settings import DaprSettings


class DaprComponent(Component):
    """Compares the types of a project's component files with those that its daprd knows."""

    name = "dapr"
    config: DaprSettings

    def checks(self) -> Iterable[Check]:
        """Whether daprd knows the types, if the project has component files of its own."""
        return [Check("dapr", self._check)] if has_components(self.mesh.project) else []

    async def _check(self) -> str:
        try:
            components = components_folder(self.mesh.project)
        except ConfigError as error:
            if self.mesh.settings.store == "dapr":
                raise
            return Caution(str(error))  # the folder may be of something else
        volatile = [*volatile_stores(components, self.config.bus)]
        try:
            daprd = find_program("daprd", self.config.bin)
        except ServiceFailed as error:
            unchecked = f"The types in {components} are not checked: {error.message}"
            return Caution(". ".join([*volatile, unchecked]))
        known = await asyncio.to_thread(known_types, daprd)
        count = 0 if known is None else check_types(components, self.config.bus, known)
        if volatile:
            return Caution(". ".join(volatile))
        if known is None:
            return f"{daprd} does not say which types it knows"
        return f"{daprd} knows the types of {count} components in {components}"

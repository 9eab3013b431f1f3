"""The settings of a mesh, and where they come from.

From the strongest: arguments (the command line), the environment (`MESH_HTTP__PORT`), `mesh.toml` in the
project's folder, the defaults. Relative paths start at the project's folder. Each part of the mesh declares
its own table.
"""

from typing import TYPE_CHECKING, Any

from meshwright.core.settings.loading import load_settings
from meshwright.core.settings.model import built_in

if TYPE_CHECKING:
    from meshwright.core.settings.model import Settings

__all__ = ["Settings", "load_settings"]


def __getattr__(name: str) -> Any:
    if name == "Settings":  # with the tables of the parts, which import this package themselves
        return built_in()
    raise AttributeError(name)

"""What can be set about a mesh, and where it comes from.

From the strongest: arguments (the command line), the environment (`MESH_HTTP__PORT`), `mesh.toml` in the
project's folder, the defaults of `tables.py`. Relative paths are of the project's folder.
"""

from meshwright.settings.loading import load_settings
from meshwright.settings.tables import ADMIN_PREFIX, ApprovalRule, Settings

__all__ = ["ADMIN_PREFIX", "ApprovalRule", "Settings", "load_settings"]

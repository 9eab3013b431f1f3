"""What can be set about a mesh, and where it comes from.

From the strongest: arguments (the command line), the environment (`MESH_HTTP__PORT`), `mesh.toml` in the
project's folder, the defaults. Relative paths are of the project's folder.
"""

from meshwright.settings.loading import load_settings
from meshwright.settings.tables import ADMIN_PREFIX, Settings
from meshwright.settings.tenants import TenantLimit, TenantsSettings
from meshwright.settings.tools import ApprovalRule

__all__ = ["ADMIN_PREFIX", "ApprovalRule", "Settings", "TenantLimit", "TenantsSettings", "load_settings"]

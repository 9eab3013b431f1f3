"""[maintenance]."""

from __future__ import annotations

from meshwright.component import Table


class MaintenanceSettings(Table):
    """[maintenance]: when the work of a mesh begins."""

    hold: bool | None = None
    """Begin no work before `mesh release`. Unset: after a restore."""

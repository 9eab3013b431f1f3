"""[maintenance]."""

from __future__ import annotations

from meshwright.settings.forms import Table


class MaintenanceSettings(Table):
    """[maintenance]: when the work of a mesh begins."""

    hold: bool | None = None
    """Whether a process with the API begins no work before `mesh release`. Unset: where a backup was
    restored."""

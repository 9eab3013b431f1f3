"""The errors of external agents."""

from __future__ import annotations

from meshwright import MeshError


class ExternalTaskFailed(MeshError):
    """The program of an external agent reported that it failed."""

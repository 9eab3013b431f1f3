"""[sandbox]: the box in which tools run programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from meshwright.agents.sandbox.port import BoxLimits
from meshwright.agents.sandbox.proxy import parse_place
from meshwright.core.errors import InvalidInput
from meshwright.core.settings.forms import Table


class SandboxSettings(Table):
    """[sandbox]: the box in which tools run programs, and the most that a run in it may take."""

    kind: Literal["auto", "bubblewrap", "landlock", "none"] = "auto"
    """`bubblewrap` or `landlock`; `auto`: the first that holds; `none`: no box."""
    read: tuple[Path, ...] = ()
    """Folders that programs may read; their `bin` is on PATH."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts for a run: `host:port`, `*.example.com`. None: no network."""
    allow_private_addresses: bool = False
    """These hosts may be private."""
    max_seconds: float = Field(default=900.0, gt=0, le=86_400)
    """Seconds of a run."""
    max_memory_mb: int = Field(default=2048, ge=64, le=1_048_576)
    """Memory of a run."""
    max_processes: int = Field(default=256, ge=8, le=32_768)
    """Processes and threads of a run."""
    max_file_mb: int = Field(default=256, ge=1, le=1_048_576)
    """Largest file of a run, and its /tmp."""
    max_output_bytes: int = Field(default=1_000_000, ge=1_000, le=100_000_000)
    """Output that is kept."""

    @property
    def limits(self) -> BoxLimits:
        """The most that a run may take."""
        names = ("seconds", "memory_mb", "processes", "file_mb", "output_bytes")
        return BoxLimits(**{name: getattr(self, f"max_{name}") for name in names})

    @field_validator("read")
    @classmethod
    def _are_folders(cls, values: tuple[Path, ...]) -> tuple[Path, ...]:
        folders = tuple(value.expanduser() for value in values)
        for folder in folders:
            if not folder.is_absolute() or folder == Path("/"):
                raise ValueError("expected folders with their whole paths, like /srv/app/.venv")
        return folders

    @field_validator("allow_hosts")
    @classmethod
    def _are_hosts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                parse_place(value)
            except InvalidInput as error:
                raise ValueError(error.message) from error
        return values

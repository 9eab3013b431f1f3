"""[coding.NAME]: coding agents that work on trees, and the programs that they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from meshwright.component import Secret, Table
from meshwright.kit import Identifier


class CodingProgram(Table):
    """A coding agent: its program, how Meshwright talks to it, and the most that a session may take."""

    program: Literal["codex", "claude", "acp"]
    """`codex`, `claude`, or `acp` for any other that speaks the Agent Client Protocol."""
    protocol: Literal["acp", "headless"] = "acp"
    """By an adapter, or headless: `codex exec`, `claude -p`. Headless asks for no permission."""
    command: str = ""
    """The program, on PATH or a path. Default: that of the adapter, or of the agent itself."""
    args: tuple[str, ...] = ()
    """Further arguments."""
    env: Mapping[str, Secret] = {}
    """Further variables; `{server}` is the address of the run's gateway."""
    read: tuple[Path, ...] = ()
    """Further folders that it may read. Those of the command are found."""
    model: str = ""
    """The model or group that it gets, whatever it asks for. Default: that of the agent's prompt."""
    permissions: Literal["box", "ask"] = "box"
    """`box`: it need not ask, since the box bounds it; `ask`: it asks by its own rules."""
    capabilities: tuple[Identifier, ...] = ()
    """Makes an agent of the table's name with these capabilities."""
    max_seconds: float = Field(default=3600.0, gt=0, le=86_400)
    """Seconds of a session."""
    max_memory_mb: int = Field(default=4096, ge=256, le=1_048_576)
    """Memory of a session, within that of [sandbox]."""
    max_turns: int = Field(default=3, ge=1, le=20)
    """Requests to it: a turn that breaks tests is followed by another."""

    @model_validator(mode="after")
    def _has_a_command(self) -> Self:
        if self.program == "acp" and not self.command:
            raise ValueError("names no command: write the program that speaks the Agent Client Protocol")
        if self.program == "acp" and self.protocol == "headless":
            raise ValueError("is headless, which codex and claude alone can be")
        return self

    @field_validator("read")
    @classmethod
    def _are_folders(cls, values: tuple[Path, ...]) -> tuple[Path, ...]:
        folders = tuple(value.expanduser() for value in values)
        if any(not folder.is_absolute() or folder == Path("/") for folder in folders):
            raise ValueError("expected folders with their whole paths, like /opt/agents")
        return folders


_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
CodingSettings = Mapping[_Name, CodingProgram]
"""[coding]: a table for each coding agent."""

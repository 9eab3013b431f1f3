"""Toolsets: tools that several agents share, made once per agent from the mesh's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from meshwright.tools.workspace import Workspace


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """What the tools may touch, and their limits. Sizes are in bytes or characters, times in seconds.

    `files` gives access to what lies in the folder `workspace`, but for what is private: the `hidden` paths,
    and files with names that commonly hold secrets.
    """

    workspace: Path = Path()
    hidden: tuple[Path, ...] = ()
    files: Workspace = field(init=False, repr=False)
    allow_private_addresses: bool = False
    max_file_bytes: int = 1_000_000
    max_search_bytes: int = 50_000_000
    max_page_bytes: int = 1_000_000
    max_text_chars: int = 20_000
    max_results: int = 100
    fetch_timeout_seconds: float = 20.0
    max_redirects: int = 5
    git_timeout_seconds: float = 10.0
    tool_timeout_seconds: float = 60.0
    max_concurrency: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", Workspace(self.workspace, self.hidden))


class Toolset:
    """Base of a set of tools. Name the class in an agent's `toolsets`; its `@tool` methods become tools."""

    def __init__(self, settings: ToolSettings) -> None:
        self.settings = settings

    async def close(self) -> None:
        """Give back what the tools hold; called once, when the mesh stops."""

"""Toolsets: tools that several agents share, made once per agent from the mesh's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from meshwright.errors import ConfigError
from meshwright.tools.threads import ToolThreads
from meshwright.tools.tool import Tool, tools_of
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
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The tables [tools.NAME] of the settings, by name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", Workspace(self.workspace, self.hidden))


class Toolset:
    """Base of a set of tools. Name the class in an agent's `toolsets`; its `@tool` methods become tools.

    Each agent has an instance of its own. `start` and `close` are called once, as the mesh starts and stops;
    `tools` after `start`, so that it may ask another system which tools there are. Where it has settings of
    its own, `config_type` is their shape, and `config` what the table [tools.NAME] of mesh.toml says.
    """

    name: ClassVar[str] = ""
    config_type: ClassVar[type[BaseModel] | None] = None

    def __init__(self, settings: ToolSettings) -> None:
        self.settings = settings
        self.config: Any = self._configured(settings.tables.get(self.name, {}))
        self.threads = ToolThreads()

    def _configured(self, table: Mapping[str, Any]) -> BaseModel | None:
        if self.config_type is None:
            if table:
                raise ConfigError(f"[tools.{self.name}]: the toolset {type(self).__name__} has no settings")
            return None
        try:
            return self.config_type.model_validate(table)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"[tools.{self.name}] {place}: {first['msg']}",
                remedy=f"Correct it in mesh.toml, or set MESH_TOOLS__{self.name.upper()}__{place.upper()}",
                field=place,
            ) from None

    async def start(self) -> None:
        """Connect. What it raises stops the start of the mesh."""

    async def tools(self) -> Sequence[Tool]:
        """The tools of the set: its `@tool` methods. Override it to offer others, or to wrap them."""
        return tools_of(self, threads=self.threads)

    async def close(self) -> None:
        """Give back what the tools hold."""

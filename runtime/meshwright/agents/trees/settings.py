"""The settings of trees: the repositories that tasks may work on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from meshwright.core.settings.forms import Table

WORKSPACE = "workspace"
"""The name of the repository that is the workspace, where the settings name none."""
TreeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,40}$")]

VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]


class TreeSettings(Table):
    """One of [trees.NAME]: a repository, and the limits of the trees that are made from it."""

    repository: str = Field(min_length=1, max_length=1_000)
    """The repository: a folder of this machine, or a URL of https, http or ssh."""
    branch: str = Field(default="", max_length=200, pattern=r"^[A-Za-z0-9_/.-]*$")
    """The branch that a tree begins with; by default that of the repository's HEAD."""
    read: tuple[Path, ...] = ()
    """Folders that commands in the sandbox may read, such as the project's `.venv` or `node_modules`. The
    programs in their `bin` are found first, and packages of `node_modules` as if that were in the tree."""
    env: Mapping[VariableName, str] = {}
    """Variables of commands in the sandbox. They can be read there: name no secrets."""
    tests: tuple[str, ...] = ()
    """The command that runs the tests, as a list; by default it is told from the files."""
    max_mb: int = Field(default=500, ge=1, le=100_000)
    """Megabytes that the files of a tree may have together."""
    max_files: int = Field(default=50_000, ge=1, le=1_000_000)
    """How many files and folders a tree may have."""

    @field_validator("repository", "branch")
    @classmethod
    def _is_no_option(cls, value: str) -> str:
        if value.startswith("-") or "\0" in value:
            raise ValueError("expected a folder, a URL or a branch; none begins with -")
        return value


TreesSettings = Mapping[TreeName, TreeSettings]
"""[trees]: a table for each repository."""

"""Small git repositories for tests, and trees that are made from them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from meshwright.agents.sandbox.choice import ChosenSandbox
from meshwright.agents.sandbox.port import Sandbox
from meshwright.agents.sandbox.settings import SandboxSettings
from meshwright.agents.trees.leases import Trees
from meshwright.agents.trees.settings import TreeSettings
from meshwright.agents.trees.tree import Tree, TreeServices
from meshwright.core.clock import SystemClock

CALC = {
    "calc.py": "def add(a, b):\n    return a - b\n",
    "test_calc.py": (
        "import unittest\n\nimport calc\n\n\nclass Sums(unittest.TestCase):\n"
        "    def test_add(self):\n        self.assertEqual(calc.add(2, 3), 5)\n"
    ),
}
"""A project with one failing test."""
_ENVIRONMENT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}
_IDENTITY = ("-c", "user.name=Ada L", "-c", "user.email=ada@example.org")


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as its owner does; returns its output."""
    environment = {"PATH": os.environ["PATH"], **_ENVIRONMENT}
    command = ["git", *_IDENTITY, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def repository(folder: Path, files: Mapping[str, str] = CALC) -> Path:
    """Make a repository with one commit of these files; returns its folder."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    return folder


def sandbox_in(folder: Path) -> Sandbox:
    """The sandbox of a mesh with that data folder."""
    return ChosenSandbox(SandboxSettings(), folder)


def trees_of(source: Path, folder: Path, **settings: object) -> Trees:
    """Trees in a folder, of one repository."""
    wanted = TreeSettings(repository=str(source), **settings)
    return Trees(folder, {"code": wanted}, source, TreeServices(sandbox_in(folder)), SystemClock())


async def tree_of(source: Path, folder: Path, **settings: object) -> Tree:
    """A tree of a repository, leased to the task t1."""
    return await trees_of(source, folder, **settings).lease("default", "t1")

"""A part is one package and one line: without them everything else imports, starts and works."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "runtime" / "meshwright"
PARTS = {
    "schedules": "services/schedules",
    "channels": "edges/channels",
    "webhooks": "edges/webhooks",
    "agent_config": "services/agent_config",
    "figures": "services/figures",
    "maintenance": "services/maintenance",
    "retention": "services/retention",
}
COMMANDS = {
    "schedules": "schedules",
    "webhooks": "webhooks",
    "agent_config": "config",
    "figures": "workers",
    "maintenance": "backup",
}
IMPORT_ALL = """\
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import meshwright

assert Path(meshwright.__file__).is_relative_to(sys.argv[1]), meshwright.__file__
for module in walk_packages(meshwright.__path__, "meshwright."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
"""
AGENT = """\
from meshwright import Agent, Capability


class Echo(Agent):
    agent_id = "echo"
    capabilities = (Capability("echo"),)

    async def run(self, run):
        return f"You said: {run.task.payload['text']}"
"""


def without(part: str, folder: Path) -> Path:
    """A copy of our source without the package of a part and its line; returns the folder to import from."""
    copy = folder / "runtime" / "meshwright"
    shutil.copytree(SOURCE, copy)
    shutil.rmtree(copy / PARTS[part])
    names = copy / "parts.py"
    source = names.read_text()
    [line] = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]) == repr(part)
    ]
    assert line.end_lineno is not None
    lines = source.splitlines()
    del lines[line.lineno - 1 : line.end_lineno]
    names.write_text("\n".join(lines))
    return copy.parent


@pytest.mark.parametrize("part", PARTS)
def test_a_mesh_works_without_a_part_that_was_deleted(part: str, tmp_path: Path) -> None:
    source = without(part, tmp_path)
    project = tmp_path / "project"
    (project / "actors").mkdir(parents=True)
    (project / "actors" / "echo.py").write_text(AGENT)
    environment = os.environ | {
        "PYTHONPATH": str(source),
        "MESH_TRUST": "1",
        "MESH_MODELS__ADAPTER": "offline",
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (arguments[:3], done.stdout, done.stderr)
        return done.stdout

    run("-c", IMPORT_ALL, str(source))
    listed = run("-m", "meshwright.cli", "--help").partition("Start:")[2].splitlines()
    commands = {line.split()[0] for line in listed if line.strip()}
    assert "tasks" in commands and COMMANDS.get(part) not in commands
    assert "You said: Hello" in run("-m", "meshwright.cli", "ask", "echo", "Hello")
    assert "succeeded" in run("-m", "meshwright.cli", "tasks")
    assert "no open tasks" in run("-m", "meshwright.cli", "status")

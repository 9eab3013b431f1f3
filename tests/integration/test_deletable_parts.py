"""A part is one package and its lines: without them everything else imports, starts and works."""

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
    "mcp": "mcp",
    "channels": "edges/channels",
    "webhooks": "edges/webhooks",
    "agent_config": "services/agent_config",
    "llmops": "services/llmops",
    "evaluations": "services/evaluations",
    "figures": "services/figures",
    "maintenance": "services/maintenance",
    "retention": "services/retention",
    "sinks": "services/sinks",
    "money": "services/money",
}
COMMANDS = {
    "schedules": "schedules",
    "webhooks": "webhooks",
    "agent_config": "config",
    "llmops": "registry",
    "evaluations": "evaluate",
    "figures": "workers",
    "maintenance": "backup",
}
RUN_ALL = """\
import os
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import meshwright

assert Path(meshwright.__file__).is_relative_to(sys.argv[1]), meshwright.__file__
for module in walk_packages(meshwright.__path__, "meshwright."):
    if not module.name.endswith("__main__"):
        import_module(module.name)

from meshwright.cli.app import run

for command in ("--help", "ask echo Hello", "tasks", "status"):
    if not os.fork():
        sys.exit(run(command.split()))
    assert os.wait()[1] == 0, command
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
    """A copy of our source without the package of a part and its lines; returns the folder to import from."""
    copy = folder / "runtime" / "meshwright"
    shutil.copytree(SOURCE, copy)
    shutil.rmtree(copy / PARTS[part])
    names = copy / "parts.py"
    source = names.read_text()
    package = PARTS[part].replace("/", ".")
    found = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and node.args[1:] and f"'{package}." in ast.unparse(node.args[1])
    ]
    lines = source.splitlines()
    for line in reversed(found):
        assert line.end_lineno is not None
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

    command = [sys.executable, "-c", RUN_ALL, str(source)]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    usage, _, rest = done.stdout.partition("You said: Hello\n")
    commands = {line.split()[0] for line in usage.partition("Start:")[2].splitlines() if line.strip()}
    assert "tasks" in commands and COMMANDS.get(part) not in commands
    assert "succeeded" in rest and "no open tasks" in rest

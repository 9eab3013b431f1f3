"""A part is one package and its lines: without them everything else imports, starts and works."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "runtime" / "meshwright"
PARTS = {
    "schedules": "parts/schedules",
    "mcp": "parts/mcp",
    "ag_ui": "parts/ag_ui",
    "a2a": "parts/a2a",
    "conversations": "parts/conversations",
    "acp": "parts/acp",
    "channels": "edges/channels",
    "webhooks": "edges/webhooks",
    "agent_config": "parts/agent_config",
    "llmops": "parts/llmops",
    "evaluations": "parts/evaluations",
    "figures": "parts/figures",
    "maintenance": "parts/maintenance",
    "retention": "parts/retention",
    "sinks": "parts/sinks",
    "money": "parts/money",
    "inbox": "parts/inbox",
}
RESTING = {"llmops": ("parts/experiments",)}
"""The parts that do nothing without another, and go with it."""
COMMANDS = {
    "schedules": "schedules",
    "acp": "acp",
    "webhooks": "webhooks",
    "agent_config": "config",
    "llmops": "registry",
    "evaluations": "evaluate",
    "figures": "workers",
    "maintenance": "backup",
}
IMPORTED = {"llmops", "evaluations", "figures"}
"""The parts that others import when they are there."""
ALONE = pytest.mark.soak("nothing imports it, and the mesh without all of them works")
RUN_ALL = """\
import os
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import meshwright

assert Path(meshwright.__file__).is_relative_to(sys.argv[1]), meshwright.__file__
needs_pydantic_ai = "meshwright.pydantic_ai"  # an extra that conflicts with those of development
for module in walk_packages(meshwright.__path__, "meshwright."):
    if not module.name.endswith("__main__") and module.name != needs_pydantic_ai:
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


def without(parts: Iterable[str], target: Path) -> Path:
    """A copy of our source without packages of parts and their lines; returns the folder to import from."""
    copy = target / "runtime" / "meshwright"
    shutil.copytree(SOURCE, copy)
    names = copy / "core/parts.py"
    for folder in (folder for part in parts for folder in (PARTS[part], *RESTING.get(part, ()))):
        shutil.rmtree(copy / folder)
        lines, declared = names.read_text().splitlines(), f'"{folder.replace("/", ".")}.part:'
        assert any(declared in line for line in lines)
        names.write_text("\n".join(line for line in lines if declared not in line))
    return copy.parent


def importers(part: str) -> list[Path]:
    """The modules outside a part that import it, but for those that need its types alone."""
    name = f"meshwright.{PARTS[part].replace('/', '.')}"
    return [
        file
        for file in SOURCE.rglob("*.py")
        if not {SOURCE / folder for folder in (PARTS[part], *RESTING.get(part, ()))} & {*file.parents}
        and any(module == name or module.startswith(f"{name}.") for module in imports(file))
    ]


@cache
def imports(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_bytes())
    for_types = {
        statement
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in ast.walk(node)
    }
    modules = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node not in for_types:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(modules)


def test_no_module_imports_a_part_that_can_be_deleted() -> None:
    assert {part for part in PARTS if importers(part)} == IMPORTED


@pytest.mark.parametrize(
    "parts",
    [pytest.param(PARTS, id="all")]
    + [pytest.param([part], id=part, marks=() if part in IMPORTED else ALONE) for part in PARTS],
)
def test_a_mesh_works_without_a_part_that_was_deleted(parts: Iterable[str], tmp_path: Path) -> None:
    source = without(parts, tmp_path)
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
    assert "tasks" in commands and commands.isdisjoint(COMMANDS.get(part) for part in parts)
    assert "succeeded" in rest and "no open tasks" in rest

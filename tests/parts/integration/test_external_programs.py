"""The contract of external agents, with the programs of the examples."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.coding.job import INSTALL
from meshwright.testing.external import check_program
from tests.support.running_mesh import ROOT
from tests.support.services import unavailable

EXAMPLES = ROOT / "examples/external"
MAX_LINES = 300


def go_agent(folder: Path) -> Sequence[str]:
    if shutil.which("go") is None:
        unavailable("Go is not installed")
    program = folder / "agent"
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=EXAMPLES / "go", check=True)
    return [str(program)]


def typescript_agent(folder: Path) -> Sequence[str]:
    where = subprocess.run(
        [sys.executable, str(INSTALL), "--where"], capture_output=True, text=True, check=False
    )
    if where.returncode or shutil.which("node") is None:
        unavailable("the TypeScript compiler is not installed: make tsc")
    compiler = Path(where.stdout.strip(), "node_modules/.bin/tsc")
    source = EXAMPLES / "typescript"
    subprocess.run([str(compiler), "-p", str(source), "--outDir", str(folder)], check=True)
    shutil.copy(source / "package.json", folder)
    return ["node", str(folder / "main.js")]


AGENTS = {"go": go_agent, "typescript": typescript_agent}


@pytest.mark.parametrize("language", AGENTS)
async def test_program_of_the_examples_holds_the_contract(language: str, tmp_path: Path) -> None:
    results = await check_program(AGENTS[language](tmp_path))
    assert [str(result) for result in results if result.problem] == []
    points = [result.name for result in results if result.name.startswith("killed at")]
    assert len(points) == 21


async def test_go_program_holds_the_contract_on_postgres(tmp_path: Path, postgres_url: str) -> None:
    results = await check_program(go_agent(tmp_path), {"MESH_DATABASE": postgres_url})
    assert [str(result) for result in results if result.problem] == []


async def test_contract_finds_a_program_that_does_steps_twice(tmp_path: Path) -> None:
    """One that does each step, whatever the mesh says of it."""
    shutil.copytree(EXAMPLES / "go", tmp_path / "source")
    mesh = tmp_path / "source/mesh.go"
    text = mesh.read_text()
    careless = text.replace(
        'answer.State != "yours" {', 'answer.State != "yours" && answer.State != "done" {'
    )
    assert careless != text
    mesh.write_text(careless)
    if shutil.which("go") is None:
        unavailable("Go is not installed")
    program = tmp_path / "agent"
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=tmp_path / "source", check=True)
    results = await check_program([str(program)], only="results look behind")
    assert any("done again" in result.problem for result in results)


@pytest.mark.parametrize("language", AGENTS)
def test_examples_are_short(language: str) -> None:
    files = [file for file in (EXAMPLES / language).iterdir() if file.suffix in (".go", ".ts")]
    assert 0 < sum(len(file.read_text().splitlines()) for file in files) < MAX_LINES

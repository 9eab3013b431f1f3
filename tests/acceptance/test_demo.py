"""The demo fixes a failing test with real tools, is killed in the middle, and repeats nothing."""

import asyncio
import os
import re
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from tests.support.running_mesh import MESH, mesh

pytestmark = pytest.mark.needs("git", "bwrap")
PICTURE = Path(__file__).parents[2] / "docs/images/demo.svg"
STAGES = {"accepted", "dispatched", "state", "model", "tool", "waiting", "approval", "succeeded"}
STATES = ["INTAKE", "PLANNING", "IMPLEMENTATION", "QA", "REVIEW", "ACCEPTED"]

OWN = """
from meshwright import Agent, Capability


class Own(Agent):
    agent_id = "own"
    capabilities = (Capability("anything"),)
"""


@pytest.fixture(scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project with other agents, and the output of the demo there."""
    project = tmp_path_factory.mktemp("project")
    (project / "actors").mkdir()
    (project / "actors/own.py").write_text(OWN)
    environment = os.environ | {"MESH_TRUST": "1", "OPENAI_API_KEY": "none"}
    process = await asyncio.create_subprocess_exec(
        *MESH, "demo", cwd=project, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment
    )
    out, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    return project, out.decode()


async def test_the_demo_is_killed_goes_on_and_commits_what_was_approved(demo: tuple[Path, str]) -> None:
    project, out = demo
    words = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line.split()]
    assert set(words) >= STAGES
    assert "failed" not in words
    assert "a script in the place of models" in out
    assert re.findall(r"^  state +([A-Z]+)", out, flags=re.M) == STATES
    assert "has got SIGKILL" in out
    ended = re.search(r"(\d+) calls .* before SIGKILL, (\d+) after it; 0 were repeated", out)
    assert ended is not None
    assert int(ended[1]) > 5 < int(ended[2])
    assert "  +    return sum(prices) * (100 - discount) // 100" in out
    table = out[out.index("The tasks, and what they cost") :]
    assert [name in table for name in ("project-manager", "api-coder", "qa-tester", "architect-agent")]
    [shop] = project.glob(".mesh/demo/*/shop")
    [clone] = project.glob(".mesh/demo/*/trees/default/*/repo.git")
    command = ["git", f"--git-dir={clone}", "log", "--format=%s", "--branches=mesh/*"]
    commits = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert commits == ["Take discounts off in percent", "Sell things"]
    assert "- discount" in (shop / "prices.py").read_text(), "the repository itself was changed"
    drawn = set(re.findall(r">(?:&#160;){2,4}([a-z]+)(?:&#160;)*<", PICTURE.read_text()))
    assert STAGES <= drawn <= set(words), "the picture of the README is stale: docs/images/make.py draws it"


async def test_what_the_demo_says_to_type_next_works(demo: tuple[Path, str]) -> None:
    project, out = demo
    said = re.findall(r"^  mesh (.*) --data (\S+)$", out, flags=re.M)
    assert len(said) == 3
    for command, data in said:
        assert (await mesh(*command.split(), "--data", str(project / data))).status == 0


async def test_a_demo_in_a_folder_that_is_used_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    done = await mesh("demo", "--data", str(tmp_path))
    assert done.status == 1
    assert "shop is there already" in done.err

"""The demo shows all that it promises, on real files, with no key, no network and no service."""

import asyncio
import os
import re
from asyncio.subprocess import DEVNULL
from pathlib import Path

from tests.support.running_mesh import MESH, mesh

PICTURE = Path(__file__).parents[2] / "docs/images/demo.svg"
STAGES = {"accepted", "dispatched", "memory", "model", "tool", "waiting", "succeeded"}

OWN = """
from meshwright import Agent, Capability


class Own(Agent):
    agent_id = "own"
    capabilities = (Capability("anything"),)
"""


async def test_the_demo_takes_tasks_of_several_agents_down_their_whole_road(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    done = await mesh("demo", "--data", data, OPENAI_API_KEY="none", LITELLM_BASE_URL="http://127.0.0.1:1")
    assert (done.status, done.err) == (0, "")
    words = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ") and line.split()]
    assert set(words) >= STAGES
    assert "failed" not in words
    asked = re.findall(r"^\d\. ([a-z-]+): ", done.out, flags=re.M)
    assert len(set(asked)) >= 3
    assert "\n    accepted" in done.out, "no agent asked another"
    assert re.search(r"memory +1 recalled", done.out)
    assert "demo.py" not in done.out, "an agent found the questions themselves"
    assert "has got SIGKILL" in done.out and "1 call of a model before SIGKILL, 0 repeated" in done.out
    assert {"step", "waited"} <= set(words), "the task that was cut off did not go on, or asked nobody"
    sources = re.findall(r"\(([\w/.-]+):\d+\)$", done.out, flags=re.M)
    assert len(sources) >= 3 and all(Path(source).is_file() for source in sources)
    drawn = set(re.findall(r">(?:&#160;){2,4}([a-z]+)(?:&#160;)*<", PICTURE.read_text()))
    assert STAGES <= drawn <= set(words), "the picture of the README is stale: docs/images/make.py draws it"


async def test_the_demo_works_in_a_project_that_has_other_agents(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/own.py").write_text(OWN)
    process = await asyncio.create_subprocess_exec(
        *MESH, "demo", cwd=tmp_path, stdin=DEVNULL, stdout=DEVNULL, env=os.environ | {"MESH_TRUST": "1"}
    )
    assert await process.wait() == 0


async def test_what_the_demo_says_to_type_next_works(tmp_path: Path) -> None:
    done = await mesh("demo", "--data", str(tmp_path / "data"))
    said = re.findall(r"^  mesh (.*--data .*)$", done.out, flags=re.M)
    assert len(said) == 3
    for command in said:
        assert (await mesh(*command.split())).status == 0

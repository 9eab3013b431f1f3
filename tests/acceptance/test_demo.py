"""The demo shows all that it promises, on real files, with no key, no network and no service."""

import asyncio
import re
from asyncio.subprocess import DEVNULL
from pathlib import Path

from tests.support.running_mesh import MESH, mesh

PICTURE = Path(__file__).parents[2] / "docs/images/demo.svg"
STAGES = {"accepted", "dispatched", "memory", "model", "tool", "waiting", "succeeded"}


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
    sources = re.findall(r"\(([\w/.-]+):\d+\)$", done.out, flags=re.M)
    assert len(sources) >= 3 and all(Path(source).is_file() for source in sources)
    drawn = set(re.findall(r">(?:&#160;){2,4}([a-z]+)(?:&#160;)*<", PICTURE.read_text()))
    assert STAGES <= drawn <= set(words), "the picture of the README is stale: docs/images/make.py draws it"


async def test_the_demo_works_outside_a_checkout(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(*MESH, "demo", cwd=tmp_path, stdout=DEVNULL)
    assert await process.wait() == 0


async def test_what_the_demo_says_to_type_next_works(tmp_path: Path) -> None:
    done = await mesh("demo", "--data", str(tmp_path / "data"))
    said = re.findall(r"^  mesh (.*--data .*)$", done.out, flags=re.M)
    assert len(said) == 3
    for command in said:
        assert (await mesh(*command.split())).status == 0

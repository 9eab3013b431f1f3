"""The demo fixes a failing test with real tools, is killed in the middle, and repeats nothing."""

import asyncio
import os
import re
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from html import unescape
from pathlib import Path

import pytest

from tests.support.chromium import chromium
from tests.support.running_mesh import MESH, mesh

pytestmark = pytest.mark.needs("git", "bwrap")
PICTURE = Path(__file__).parents[3] / "docs/images/demo.svg"
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


def drawn_rows() -> list[str]:
    """The rows of the picture of the README, as text."""
    rows: dict[float, str] = {}
    for y, text in re.findall(r'<text [^>]*?y="([\d.]+)"[^>]*>([^<]*)<', PICTURE.read_text()):
        rows[float(y)] = rows.get(float(y), "") + unescape(text).replace("\xa0", " ")
    return [row for _, row in sorted(rows.items())]


def shape(line: str) -> str:
    """A line without what differs each time: ids, digests, numbers, folders and widths."""
    line = re.sub(r"…[0-9A-Z]{6}|\b(?=\w*\d)[0-9A-Z]{6,}\b|\b[0-9a-f]{40}\b|demo/\w+|\d[\d,.]*", "#", line)
    return re.sub(r"\s+", " ", line).strip()


async def test_the_picture_of_the_readme_shows_what_the_demo_prints(demo: tuple[Path, str]) -> None:
    printed = " ".join(map(shape, demo[1].splitlines()))
    command, *rows = drawn_rows()
    stages = {row.split()[0] for row in rows if row.startswith("  ")}
    assert (command, STAGES - stages) == ("$ mesh demo", set())
    for row in rows:
        is_left_out = row.strip() == "..."
        assert is_left_out or shape(row)[:32] in printed, f"{row!r}: docs/images/make.py draws it anew"


GO_TO = """(share) => document.getAnimations().map((move) => {
  move.pause();
  move.currentTime = share * move.effect.getComputedTiming().duration;
}).length"""
SEEN = """() => {
  const rows = [...document.querySelectorAll("#text text")].map((row) => row.getBoundingClientRect());
  const cover = document.querySelector("#cover").getBoundingClientRect();
  const whole = document.querySelector("svg").getBoundingClientRect();
  const first = rows.filter((row) => row.top > whole.top && row.bottom <= cover.top + 1).length;
  return { first, last: rows.at(-1).bottom <= Math.min(cover.top + 1, whole.bottom) };
}"""


@pytest.mark.needs("chromium")
async def test_the_picture_of_the_readme_moves_to_its_end() -> None:
    async with chromium() as browser:
        page = await browser.new_page()
        await page.goto(PICTURE.as_uri())
        assert await page.evaluate(GO_TO, 0.0) == 2
        assert await page.evaluate(SEEN) == {"first": 1, "last": False}
        await page.evaluate(GO_TO, 0.5)
        half = await page.evaluate(SEEN)
        assert half["first"] > 10 and not half["last"]
        await page.evaluate(GO_TO, 0.99)
        assert (await page.evaluate(SEEN))["last"]
        await page.emulate_media(reduced_motion="reduce")
        assert await page.evaluate("document.getAnimations().length") == 0
        assert (await page.evaluate(SEEN))["last"]


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

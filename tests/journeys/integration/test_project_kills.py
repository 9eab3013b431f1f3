"""project-manager in a mesh that is killed in each of its states: each goes on where it was."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from meshwright.testing import tool_call as call
from tests.support.fake_provider import text_of
from tests.support.killed_mesh import KilledMesh, killed_mesh
from tests.support.repositories import git, repository
from tests.support.scripted_provider import ScriptedProvider
from tests.support.shipped_agents import ARCHITECT, CODER, FIX, MANAGER, TESTER, goal, plan, review, verdict

__all__ = ["killed_mesh"]

pytestmark = pytest.mark.needs("git", "bwrap")
STATES = ["INTAKE", "PLANNING", "IMPLEMENTATION", "QA", "REVIEW", "ACCEPTED"]
HOLDS = {
    "INTAKE": (MANAGER, 0),
    "PLANNING": (MANAGER, 1),
    "IMPLEMENTATION": (CODER, 2),
    "QA": (TESTER, 2),
    "REVIEW": (ARCHITECT, 1),
}
"""The request in each state that is not answered: of which agent, and after how many calls of its tools."""
PLACES = [*HOLDS, "waiting", "ACCEPTED"]
ALONE = pytest.mark.soak("one job outlives all of these kills")
KILLS = [pytest.param(PLACES, id="all"), *(pytest.param([place], marks=ALONE, id=place) for place in PLACES)]
SCRIPTS = {
    MANAGER: [goal(), plan()],
    CODER: [call("run_tests"), FIX, call("run", command="echo line >> log.txt"), "Corrected."],
    TESTER: [call("run_tests"), call("diff"), verdict()],
    ARCHITECT: [call("diff"), review()],
}
OF_MANAGER = {"list": 1, "run_tests": 3, "propose": 1}
CALLED = Counter(
    {(MANAGER, tool): count for tool, count in OF_MANAGER.items()}
    | {(agent, one.name): 1 for agent, made in SCRIPTS.items() for one in made if not isinstance(one, str)}
)
_LOOK_SECONDS = 0.002


class Provider(ScriptedProvider):
    def place(self, body: Mapping[str, Any]) -> int:
        """The requests of project-manager have no results of tools: it asks for a goal, then for a plan."""
        if body["user"] != MANAGER:
            return super().place(body)
        return int(text_of(body["messages"][-1]["content"]).startswith("Plan"))


async def kill_in(state: str, mesh: KilledMesh, provider: Provider, then: Sequence[str]) -> None:
    """Kill the mesh once the job is held in a state; the next of `then` is held afterwards."""
    await provider.until_held(HOLDS[state])
    assert [said for said in await states(mesh) if said in HOLDS][-1] == state
    provider.holds = dict(HOLDS[following] for following in then[:1])
    await mesh.kill()


async def kill_at_the_commit(mesh: KilledMesh, branch: Path) -> None:
    """Kill the mesh as soon as the commit is made, which may be before its record is."""
    await mesh.approve()
    while not branch.exists():
        await asyncio.sleep(_LOOK_SECONDS)
    await mesh.kill()


async def states(mesh: KilledMesh) -> list[str]:
    page = await mesh.running.get("/events", event_type="run.state", limit=100)
    return [event["payload"]["state"] for event in page.body["items"]]


@pytest.mark.parametrize("kills", KILLS)
async def test_a_job_that_is_killed_goes_on_in_its_state_and_does_nothing_twice(
    kills: Sequence[str], killed_mesh: Callable[[dict[str, str]], KilledMesh], tmp_path: Path
) -> None:
    source = repository(tmp_path / "source")
    async with Provider() as provider:
        provider.follow(SCRIPTS)
        held = [state for state in kills if state in HOLDS]
        provider.holds = dict(HOLDS[state] for state in held[:1])
        environment = {
            "LITELLM_BASE_URL": provider.url,
            "LITELLM_API_KEY": "sk-fake",
            "MESH_MODELS__ADAPTER": "http",
            "MESH_TREES__CALC__REPOSITORY": str(source),
        }
        async with killed_mesh(environment) as mesh:
            task_id = (await mesh.running.client.submit(MANAGER, "Fix the failing test.")).task_id
            clone = tmp_path / "data" / "trees" / "default" / task_id / "repo.git"
            for number, state in enumerate(held, start=1):
                await kill_in(state, mesh, provider, held[number:])
            [question] = await mesh.questions()
            assert "+    return a + b" in question.subject["effect"]
            assert git(clone, "for-each-ref", f"refs/heads/mesh/{task_id}") == "", "it is committed already"
            if "waiting" in kills:
                await mesh.kill()
            if "ACCEPTED" in kills:
                await kill_at_the_commit(mesh, clone / "refs" / "heads" / "mesh" / task_id)
            else:
                await mesh.approve()
            outcome = await mesh.running.outcome(task_id)
            said, called = await states(mesh), await mesh.called()
    assert outcome["result"]["state"] == "ACCEPTED", outcome["result"]
    assert outcome["changed"]
    assert said == STATES
    assert called == CALLED
    branch = f"mesh/{task_id}"
    assert git(clone, "rev-list", "--count", f"main..{branch}") == "1\n"
    assert git(clone, "rev-parse", branch).strip() == outcome["result"]["revision"]
    assert git(clone, "show", f"{branch}:calc.py") == "def add(a, b):\n    return a + b\n"
    assert git(clone, "show", f"{branch}:log.txt") == "line\n"
    assert git(source, "for-each-ref", "refs/heads/mesh") == ""

"""Meshes with a coding agent that is a fake: words in its requests say what it does, see `fake_acp_agent`."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from meshwright import Capability, CodingAgent
from meshwright.engine.events.inbox import Question
from meshwright.models.port import Model
from meshwright.testing import MeshUnderTest, mesh_for
from tests.support.repositories import CALC, repository

PROGRAM = Path(__file__).resolve().parent / "fake_acp_agent"
Up = Callable[..., AbstractAsyncContextManager[MeshUnderTest]]


class Fixer(CodingAgent):
    """Has bugs fixed by a coding agent."""

    agent_id = "fixer"
    capabilities = (Capability("bug-fix"),)
    num_retries = 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the box is tried once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def up(tmp_path: Path, data: Path) -> Up:
    @asynccontextmanager
    async def meshes(
        flaws: str = "",
        files: Mapping[str, str] = CALC,
        model: Model | None = None,
        settings: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> AsyncIterator[MeshUnderTest]:
        source = tmp_path / "source"
        if not source.exists():
            repository(source, files)
        coder = {"program": "acp", "command": str(PROGRAM), "args": flaws.split(), "permissions": "ask"}
        coder |= options
        tables = {"trees": {"code": {"repository": str(source)}}, "coding": {"fixer": coder}}
        tables["models"] = {"park": True, "park_seconds": 0.1}
        async with mesh_for(Fixer, model=model, data_dir=data, **{**tables, **settings}) as mesh:
            yield mesh

    return meshes


async def delegated(mesh: MeshUnderTest, text: str) -> Any:
    """The outcome of a change that nobody commits."""
    receipt = await mesh.client.submit("fixer", text)
    outcome = None
    while outcome is None:
        questions = await mesh.questions()
        for question in questions:
            await mesh.answer(question, {"approve": "propose" not in str(question.subject)})
        outcome = await mesh.client.outcome(receipt.task_id) if "propose" in str(questions) else None
    return outcome


async def proposal_of(mesh: MeshUnderTest, task_id: str) -> Question:
    """The question whether the change of a task may be committed, once it is asked."""
    async for event in mesh.client.follow(task_id):
        if event.event_type == "task.waiting" and "propose" in str(event.payload):
            break
    [question] = [question for question in await mesh.questions() if question.task_id == task_id]
    return question


def working_below(folder: Path) -> list[str]:
    """The processes whose working folder lies in a folder."""
    places = {path.parent.name: path for path in Path("/proc").glob("[0-9]*/cwd")}
    return [pid for pid, place in places.items() if _target(place).is_relative_to(folder)]


def _target(link: Path) -> Path:
    try:
        return link.readlink()
    except OSError:  # it has ended meanwhile
        return Path("/")

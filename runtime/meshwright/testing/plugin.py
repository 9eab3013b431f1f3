"""Fixtures for those who test agents; pytest finds them wherever Meshwright is installed.

    async def test_the_greeter_greets(mesh, model):
        model.replies("Hello!")
        outcome = await mesh.ask("greeter", "Say hello.")
        assert outcome.text == "Hello!"

Async tests and fixtures run by anyio's plugin, installed with Meshwright: set `anyio_mode = "auto"`.
Everything is imported by the fixture that needs it, so that other tests pay nothing.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from meshwright.agents.agent import Agent
    from meshwright.testing.mesh import MeshUnderTest, ScriptedModel


def pytest_configure(config: pytest.Config) -> None:
    """Let the tests of a project import its own modules and its agents' files, as `mesh` does."""
    project = config.invocation_params.dir
    if (project / "mesh.toml").exists() or (project / "actors").is_dir():
        sys.path += [str(path) for path in (project / "actors", project) if str(path) not in sys.path]


@pytest.fixture
def model() -> ScriptedModel:
    """The model of the test's mesh; it says what `model.replies(...)` has it say."""
    from meshwright.testing.mesh import ScriptedModel

    return ScriptedModel()


@pytest.fixture
def agents() -> Sequence[type[Agent]]:
    """The agents of the test's mesh. Override it to name some; none means those of the project."""
    return ()


@pytest.fixture
async def mesh(model: ScriptedModel, agents: Sequence[type[Agent]]) -> AsyncIterator[MeshUnderTest]:
    """A running mesh in memory, with `agents` and `model`."""
    from meshwright.testing.mesh import mesh_for

    async with mesh_for(*agents, model=model) as mesh:
        yield mesh

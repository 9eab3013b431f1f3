"""A program that ends at once is told by its last words, on the event loop of `mesh up` too."""

from pathlib import Path
from typing import Any

import pytest

from meshwright.testing import mesh_for
from tests.support.coding_agents import Fixer
from tests.support.repositories import repository

pytestmark = pytest.mark.needs("git", "bwrap")
ENDINGS = {
    "at once": "echo this program moved >&2; exit 3",
    "with its input": "exec <&-; sleep 0.3; echo this program moved >&2; exit 3",
    "behind a line": "read line; echo this program moved >&2; exit 3",
}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Both loops: uvloop raises RuntimeError where a pipe is closed, and asyncio OSError."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.parametrize("protocol", ["acp", "headless"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_program_that_ends_is_told_by_its_last_words(
    tmp_path: Path, ending: str, protocol: str
) -> None:
    repository(tmp_path / "source")
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\n{ENDINGS[ending]}\n")
    program.chmod(0o755)
    coder = {"program": "claude", "protocol": protocol, "command": str(program)}
    trees = {"code": {"repository": str(tmp_path / "source")}}
    async with mesh_for(Fixer, trees=trees, coding={"fixer": coder}) as mesh:
        outcome = await mesh.client.ask("fixer", f"Have add() add. {'x' * 250_000}")
    assert outcome.error is not None
    assert outcome.error.type == "CodingAgentFailed"
    assert "ended by status 3: this program moved" in outcome.error.message

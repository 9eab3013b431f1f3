"""Programs that a mesh starts get no key from its environment."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from meshwright.parts.proving.processes import writer_pids
from tests.agents.integration.test_prompt_history import project
from tests.support.running_mesh import mesh, mesh_up, run

__all__ = ["project"]
KEY = "planted-key-Yw3Lr8Tq5Vn1"
PATIENCE_SECONDS = 60
# Notes the environment, then becomes the real program.
RECORDER = """#!/bin/sh
env >> {record}
exec {program} "$@"
"""


def recorded(folder: Path, name: str) -> tuple[Path, str]:
    """A program that records its environment in a file, and a PATH on which it comes first."""
    record, program = folder / f"{name}.env", shutil.which(name)
    (folder / "bin").mkdir()
    (folder / "bin" / name).write_text(RECORDER.format(record=record, program=program))
    (folder / "bin" / name).chmod(0o755)
    return record, f"{folder}/bin:{os.environ['PATH']}"


async def test_the_writer_has_no_key(tmp_path: Path) -> None:
    async with mesh_up(tmp_path, MESH_WRITER="process", PROVIDER_KEY=KEY) as up:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (writers := writer_pids(up.process.pid)):
                await asyncio.sleep(0.02)
        assert KEY.encode() not in Path(f"/proc/{writers[0]}/environ").read_bytes()
        assert (await up.outcome(await up.submit("Who are you?")))["success"]


def test_git_of_prompts_has_no_key(project: Path, tmp_path: Path) -> None:
    record, path = recorded(tmp_path, "git")
    done = run("prompts", "log", "greeter", cwd=project, PATH=path, PROVIDER_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert "HOME=" in record.read_text() and KEY not in record.read_text()


@pytest.mark.needs("bwrap")
async def test_bubblewrap_has_no_key(tmp_path: Path) -> None:
    record, path = recorded(tmp_path, "bwrap")
    await mesh("doctor", "--data", str(tmp_path / "data"), PATH=path, PROVIDER_KEY=KEY)
    assert "PATH=" in record.read_text() and KEY not in record.read_text()

"""Programs of the mesh's own within limits of time and output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from meshwright.agents.sandbox.process import ProgramResult, run


async def ran(folder: Path, source: str) -> ProgramResult:
    command = [sys.executable, "-S", "-E", "-c", source]
    environment = {"PATH": os.environ["PATH"]}
    return await run(
        command, folder=folder, environment=environment, timeout_seconds=60.0, max_output_bytes=1_000
    )


async def test_a_program_with_many_warnings_runs_to_its_end(tmp_path: Path) -> None:
    ended = await ran(tmp_path, "import sys; sys.stderr.write('warning\\n' * 50_000); print('done')")
    assert (ended.status, ended.output) == (0, "done\n")
    assert ended.errors.startswith("warning\n") and len(ended.errors) < 10_000


async def test_a_program_with_too_much_output_is_killed(tmp_path: Path) -> None:
    ended = await ran(tmp_path, "while True: print('x' * 1_000)")
    assert ended.is_killed and len(ended.output) == 1_000

"""Streams of `mesh` that cannot be written: a pipe without a reader, a full disk, a closed stream."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.running_mesh import MESH

FULL = Path("/dev/full")
EMPTY = 'no such tasks; mesh ask AGENT "..." makes one\n'


def test_a_broken_pipe_is_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*MESH, "--help"], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert done.stderr == b""


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["--help"], ["tasks", "--json"]])
def test_output_that_finds_no_room_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [*MESH, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert done.returncode == 1
    assert done.stderr == (
        "mesh: the output cannot be written: No space left on device; make room, or write it elsewhere\n"
    )


def test_a_command_runs_with_its_output_closed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *MESH, "tasks"], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, EMPTY)

"""Nothing gets out of a box, and nothing outlives it: each box, as root and as a plain user."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import getpass
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from meshwright.agents.sandbox.attempts import NAMES
from tests.support.break_outs import ALL

ROOT = Path(__file__).resolve().parents[3]
USERS = ("root", "nobody") if os.getuid() == 0 else (getpass.getuser(),)
BOXES = ("bubblewrap", "landlock")
pytestmark = pytest.mark.needs("bwrap")
EVERYWHERE = pytest.mark.parametrize(("box", "user"), [(box, user) for box in BOXES for user in USERS])


@functools.cache
def outcome(box: str, user: str) -> dict[str, Any]:
    """How the trials of a box ended, each made once."""
    command = [sys.executable, "-m", "tests.support.boxed", box, user]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@EVERYWHERE
@pytest.mark.parametrize("attempt", [attempt.__name__ for attempt in ALL])
def test_no_break_out_gets_out(box: str, user: str, attempt: str) -> None:
    assert attempt not in outcome(box, user)["attempts"]


def test_all_decisive_break_outs_but_those_that_need_root_get_out_without_a_box() -> None:
    never = {"write_to_the_system", "load_into_the_kernel", "use_capabilities", "make_namespaces"}
    assert {*NAMES} - never <= {*outcome("none", USERS[-1])["decisive"]}


@EVERYWHERE
def test_no_decisive_break_out_gets_out(box: str, user: str) -> None:
    assert outcome(box, user)["decisive"] == []


def test_without_a_box_the_break_outs_get_out() -> None:
    out = outcome("none", USERS[-1])["attempts"]
    assert len(out) >= 30, out
    assert {
        "read_outside",
        "write_through_a_link",
        "connect_by_tcp",
        "kill_others",
        "read_memory_of_others",
    } <= {*out}


@EVERYWHERE
def test_priorities_of_the_users_other_processes_stay(box: str, user: str) -> None:
    assert outcome(box, user)["slowed"] is False
    assert outcome(box, user)["priorities"][0] == 0


@EVERYWHERE
def test_processes_are_bounded(box: str, user: str) -> None:
    status, ended_by, _, output = outcome(box, user)["forks"]
    assert ended_by == "processes" or (status == 0 and int(output) <= 45)


@EVERYWHERE
def test_without_a_control_group_processes_are_few(box: str, user: str) -> None:
    status, ended_by, _, output = outcome(box, user)["many forks"]
    limit = 128 if outcome(box, user)["has group"] else 64
    assert ended_by == "processes" or (status == 0 and int(output) <= limit + 5)


@EVERYWHERE
def test_buffers_of_sockets_are_counted_or_few(box: str, user: str) -> None:
    _, ended_by, _, output = outcome(box, user)["buffers"]
    if outcome(box, user)["has group"]:
        assert ended_by == "memory"
    else:
        assert int(output) <= 256


@EVERYWHERE
def test_only_bubblewrap_of_a_plain_user_changes_modes(box: str, user: str) -> None:
    mode = "0o755" if box == "bubblewrap" and user != "root" else "0o644"
    assert outcome(box, user)["modes"] == [0, "", False, f"{mode} False\n"]


@EVERYWHERE
def test_memory_of_all_processes_together_is_bounded(box: str, user: str) -> None:
    assert outcome(box, user)["memory"][:2] == [None, "memory"]


@EVERYWHERE
def test_memory_of_one_process_is_an_error_in_it(box: str, user: str) -> None:
    status, ended_by, _, output = outcome(box, user)["memory of one"]
    assert (status, ended_by) == (1, "") and "MemoryError" in output


@EVERYWHERE
def test_a_flood_of_output_is_ended_and_head_and_tail_are_kept(box: str, user: str) -> None:
    status, ended_by, is_cut, output = outcome(box, user)["flood"]
    assert (status, ended_by, is_cut) == (None, "output", True)
    assert output.startswith("head of it") and len(output) < 2_100
    assert outcome(box, user)["long"] == [0, "", True, outcome(box, user)["long"][3]]
    head, _, tail = outcome(box, user)["long"][3].partition("\n[3,017 bytes are left out here]\n")
    assert head.startswith("the headxxx") and tail.endswith("xxxthe tail\n")


@EVERYWHERE
def test_nothing_is_left_after_the_time_limit_or_a_cancel(box: str, user: str) -> None:
    found = outcome(box, user)
    assert found["time"][:2] == [None, "time"] and found["time"][3] == "held\n"
    assert (found["left after time"], found["left after a cancel"]) == (False, False)


@EVERYWHERE
async def test_nothing_is_left_when_the_mesh_is_killed(box: str, user: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        tree.chmod(0o777)
        command = [sys.executable, "-m", "tests.support.boxed", box, user, folder]
        mesh = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
        while not (tree / "held").exists():
            assert mesh.returncode is None
            await asyncio.sleep(0.02)
        mesh.kill()
        await mesh.wait()
        with (tree / "lock").open() as file:
            await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)  # waits until all that held it are gone

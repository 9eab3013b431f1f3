"""`mesh prove --agent` kills a user's own agent before and behind each step, and says what that means."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from meshwright.testing.crash_trial import CrashReport, CrashRun
from tests.support.running_mesh import MESH, run

ACTORS = """\
from pathlib import Path

from meshwright import Agent, Capability, tool

class Till(Agent):
    agent_id = "till"
    capabilities = (Capability("tilling"),)
    prompt_text = "You work at a till."

    @tool
    async def charge(self, order: int) -> str:
        '''Charge an order.'''
        with Path("charges.txt").open("a") as file:
            file.write("charged\\n")
        return f"charged {order}"
"""
QUESTION = "The mesh stopped while charge was running."


def test_a_tool_without_a_check_asks_a_person_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "till.py").write_text(ACTORS)
    (tmp_path / "mesh.toml").write_text('[mqtt]\nurl = "mqtt://127.0.0.1:1"\n')  # which no trial reaches
    done = run("prove", "--agent", "till", "--text", "Charge order 7", "--yes", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "till: 6 kills, before and behind each of its steps" in done.stdout
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line[:1].strip()}
    assert lines["model"].endswith("goes on by itself")
    assert QUESTION in lines["charge"] and "a kill before it asks a person" in lines["charge"]
    # Once without a kill, in each run whose kill is not before it, and never again behind a doubt.
    assert (tmp_path / "charges.txt").read_text().splitlines() == ["charged"] * 6
    assert not (tmp_path / ".mesh").exists()
    unasked = run("prove", "--agent", "till", cwd=tmp_path)
    assert unasked.returncode == 2 and "up to twice in each run: charge; say with --yes" in unasked.stderr
    stranger = run("prove", "--agent", "tim", "--yes", cwd=tmp_path)
    assert stranger.returncode == 2 and "there is no agent 'tim'; there are till" in stranger.stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_trial_leaves_nothing(ending: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    slow = ACTORS.replace("return f", "time.sleep(300)\n        return f").replace(
        "from", "import time\nfrom", 1
    )
    (tmp_path / "actors" / "till.py").write_text(slow)
    options = ("--agent", "till", "--text", "Charge order 7", "--yes")
    with subprocess.Popen([*MESH, "prove", *options], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "charges.txt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(ending)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and b"nothing is left" in said
    assert not (tmp_path / ".mesh").exists()


def test_a_repeated_call_with_another_result_is_no_idempotent_one() -> None:
    def killed(point: str, *results: str, question: str = "", error: str = "") -> CrashRun:
        calls = [("note", "{}", result) for result in results]
        return CrashRun(point, [], calls, question, error)

    same = CrashReport("a", [killed("note before", "'1'"), killed("note behind", "'1'", "'1'")])
    assert same.held and dict(same.remarks()) == {"note": ""}
    other = CrashReport("a", [killed("note before", "'1'"), killed("note behind", "'1'", "'2'")])
    assert not other.held and "gave another result: '1', then '2'" in dict(other.remarks())["note"]
    failed = CrashReport("a", [killed("model before", error="ToolError: no"), killed("note behind", "'1'")])
    assert "a kill before it fails the task: ToolError: no" in dict(failed.remarks())["model"]

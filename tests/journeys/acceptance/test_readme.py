"""The commands of the README do what it says there."""

import asyncio
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.support.running_mesh import ROOT, mesh, mesh_up

README = (ROOT / "README.md").read_text()
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", flags=re.M)
COMMITTED = "Teach the parser about dates"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the agent of the README, and one commit."""
    found = re.search(r"`(actors/\w+\.py)`:\n\n```python\n(.*?)^```$", README, flags=re.M | re.S)
    assert found
    path, text = found.groups()
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_text(text)
    who = ["-c", "user.name=Reader", "-c", "user.email=reader@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", COMMITTED]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.needs("curl")
async def test_what_curl_is_shown_to_print_is_what_it_prints(tmp_path: Path) -> None:
    [block] = re.findall(r"^```console\n(.*?)^```$", README, flags=re.M | re.S)
    commands = COMMAND.findall(block)
    assert len(commands) == 2
    async with mesh_up(tmp_path / "data") as running:
        for command, shown in commands:
            here = command.replace("localhost:8000", running.url.removeprefix("http://"))
            process = await asyncio.create_subprocess_shell(here, stdout=asyncio.subprocess.PIPE)
            printed, _ = await process.communicate()
            # How many pieces an answer comes in, and whether curl was there in time, is a matter of moments.
            assert printed.decode().replace("event: model.delta\n", "").strip() == shown.strip()


async def test_what_the_help_says_to_ask_is_answered_from_a_file(tmp_path: Path) -> None:
    told = " ".join((await mesh("--help")).out.split())
    [(agent, question)] = re.findall(r'`mesh ask (\S+) "(.*?)"`', told)
    done = await mesh("ask", agent, question, "--data", str(tmp_path / "data"))
    assert done.status == 0
    assert "(ARCHITECTURE.md:" in done.out and "app.py" not in done.out


async def test_the_first_question_gets_its_answer(tmp_path: Path) -> None:
    [agent, question] = re.findall(r'^mesh ask (\S+) "(.*)"$', README, flags=re.M)[0]
    done = await mesh("ask", agent, question, "--data", str(tmp_path / "data"))
    assert done.status == 0
    assert "(ARCHITECTURE.md:" in done.out and "killed" in done.out


@pytest.mark.needs("git")
def test_the_agent_of_the_readme_answers(project: Path) -> None:
    [command] = re.findall(r"^mesh ask release-agent .*$", README, flags=re.M)
    asked = in_shell(command, project)
    assert asked.returncode == 0 and COMMITTED in asked.stdout, asked.stderr


def in_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Type a command, with the environment of the checkout active."""
    environment = os.environ | {"PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )

"""Files at a shell: what an outcome has is saved in one folder, and what is sent is checked first."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.support import running_mesh

HOSTILE = [
    "../../evil.txt",
    "/etc/evil.txt",
    "..\\evil.txt",
    ".hidden",
    "..",
    "a" * 150 + ".txt",
    "a" * 180 + "." + "\U0001f4a5" * 16,
    "same.txt",
    "same.txt",
]
ACTOR = f"""from meshwright import Agent, Capability, File, Run


class Namer(Agent):
    agent_id = "namer"
    capabilities = (Capability("naming"),)

    async def run(self, run: Run) -> str:
        for number, name in enumerate({HOSTILE!r}):
            await run.attach(File(name=name, data=str(number).encode()))
        await run.attach(File(name="far.png", url="https://example.org/far.png"))
        return "Named."
"""


run = partial(running_mesh.run, MESH_TRUST="1", COLUMNS="100")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "actors").mkdir()
    (folder / "actors/namer.py").write_text(ACTOR)
    (folder / "prompts").mkdir()
    (folder / "prompts/namer.prompt").write_text(
        "---\ndescription: d\ntags: [naming]\nvariables: []\n---\nName files.\n"
    )
    return folder


@pytest.fixture(scope="module")
def asked(project: Path) -> subprocess.CompletedProcess[str]:
    done = run("ask", "namer", "Go.", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    return done


def test_names_stay_in_the_folder_and_nothing_is_overwritten(
    project: Path, asked: subprocess.CompletedProcess[str]
) -> None:
    task_id = json.loads(asked.stdout)["task_id"]
    assert asked.stderr.count("bytes)") == 2 * len(HOSTILE), "each is shown as it is attached, and at the end"
    assert f"mesh task {task_id} --save DIR" in asked.stderr
    out = project / "out"
    out.mkdir()
    (project / "outside").write_text("mine")
    (out / "same.txt").symlink_to(project / "outside")
    for _ in range(2):  # what is there already stays
        saved = run("task", task_id, "--save", "out", cwd=project)
        assert saved.returncode == 0, saved.stderr
        assert "https://example.org/far.png" in saved.stderr
        paths = [project / line for line in saved.stdout.splitlines()]
        assert [path.read_text() for path in paths] == [str(number) for number in range(len(HOSTILE))]
        assert {path.parent for path in paths} == {out}
        names = [path.name for path in paths]
        assert names[:5] == ["_.._evil.txt", "_etc_evil.txt", "_evil.txt", "hidden", "file"]
        assert names[7:] == ["same-2.txt", "same-3.txt"]
    assert (project / "outside").read_text() == "mine"


def test_a_file_of_another_task_is_named_and_not_sent_again(
    project: Path, asked: subprocess.CompletedProcess[str]
) -> None:
    url = json.loads(asked.stdout)["files"][0]["url"]
    passed = json.loads(run("ask", "namer", "Go.", "--file", url, "--json", cwd=project).stdout)
    view = json.loads(run("task", passed["task_id"], "--json", cwd=project).stdout)
    assert view["payload"]["files"] == [{"url": url}]


def test_a_file_to_send_is_checked_before_it_is_read(project: Path) -> None:
    missing = run("ask", "namer", "Go.", "--file", "nothing.png", cwd=project)
    assert missing.returncode != 0 and "cannot read nothing.png: No such file or directory" in missing.stderr
    with (project / "huge.bin").open("wb") as huge:
        huge.truncate(100_000_000)
    large = run("ask", "namer", "Go.", "--file", "huge.bin", cwd=project)
    assert large.returncode != 0
    assert "huge.bin has 100,000,000 bytes; 50,331,648 can be sent" in large.stderr

"""The versions of a prompt file in git: `mesh prompts log`, `show`, `diff` and `blame`."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.running_mesh import run

PROMPT = "---\ntags: [default]\n---\nYou work at a desk, and greet all who come.\nYou greet people.{}\n"
WHO = {
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "a@x",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "a@x",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose prompt `greeter` was renamed and changed, and is changed again without a commit."""
    (tmp_path / "actors").mkdir()
    (tmp_path / "prompts").mkdir()
    git(tmp_path, "init", "-q", "-b", "main")
    write(tmp_path, "hello", "")
    commit(tmp_path, "Greet people")
    git(tmp_path, "mv", "prompts/hello.prompt", "prompts/greeter.prompt")
    write(tmp_path, "greeter", " Be brief.")
    commit(tmp_path, "Be brief")
    write(tmp_path, "greeter", " Be kind.")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **WHO}, capture_output=True, check=True)
    return done.stdout.decode().strip()


def write(project: Path, name: str, more: str) -> None:
    (project / "prompts" / f"{name}.prompt").write_text(PROMPT.format(more))


def commit(project: Path, subject: str) -> None:
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", subject)


def version(more: str) -> str:
    return hashlib.sha256(PROMPT.format(more).encode()).hexdigest()[:12]


def test_log_lists_versions_through_a_rename_with_what_is_not_committed(project: Path) -> None:
    rows = json.loads(run("prompts", "log", "greeter", "--json", cwd=project).stdout)
    assert [(row["version"], row["subject"]) for row in rows] == [
        (version(" Be kind."), "not committed"),
        (version(" Be brief."), "Be brief"),
        (version(""), "Greet people"),
    ]
    assert [row["commit"] for row in rows] == ["", *git(project, "log", "--format=%h", "--abbrev=12").split()]
    table = run("prompts", "log", "greeter", "--limit", "1", cwd=project).stdout.splitlines()
    assert len(table) == 2 and table[1].split()[0] == version(" Be kind.")


def test_show_prints_the_text_of_a_version_by_digest_or_commit(project: Path) -> None:
    assert run("prompts", "show", "greeter", cwd=project).stdout == PROMPT.format(" Be kind.")
    for named in (version(""), version("").upper(), git(project, "rev-parse", "HEAD~1")):
        assert run("prompts", "show", f"greeter@{named}", cwd=project).stdout == PROMPT.format("")


def test_diff_compares_the_newest_two_or_those_that_are_named(project: Path) -> None:
    newest = run("prompts", "diff", "greeter", cwd=project).stdout.splitlines()
    assert newest[:2] == [f"--- greeter@{version(' Be brief.')}", f"+++ greeter@{version(' Be kind.')}"]
    assert newest[-2:] == ["-You greet people. Be brief.", "+You greet people. Be kind."]
    named = run("prompts", "diff", "greeter", version(""), version(" Be brief."), cwd=project).stdout
    assert named.splitlines()[-2:] == ["-You greet people.", "+You greet people. Be brief."]


def test_blame_says_who_wrote_each_line(project: Path) -> None:
    lines = run("prompts", "blame", "greeter", cwd=project).stdout.splitlines()
    assert len(lines) == 5 and "Ann" in lines[0] and "Not Committed Yet" in lines[4]


def test_programs_that_a_repository_names_are_not_run(project: Path) -> None:
    trap = project / "trap"
    (project / "ran.sh").write_text(f"#!/bin/sh\ntouch {trap}\ncat\n")
    (project / "ran.sh").chmod(0o755)
    (project / ".gitattributes").write_text("*.prompt diff=trap filter=trap\n")
    for setting in ("core.fsmonitor", "diff.trap.textconv", "diff.trap.command", "core.pager"):
        git(project, "config", setting, str(project / "ran.sh"))
    for verb in ("log", "show", "diff", "blame"):
        assert run("prompts", verb, "greeter", cwd=project).returncode == 0
    assert not trap.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("log", "greter"), "did you mean greeter?"),
        (("show", "greeter@000000"), "has no version '000000' in git; mesh prompts log greeter lists"),
        (("diff", "greeter", "zzz"), "has no version 'zzz' in git"),
        (("log", "../greeter"), "has no prompt '../greeter'"),
        (("log", "-n"), "No such option"),
    ],
)
def test_what_is_not_there_is_said_with_a_remedy(
    project: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = run("prompts", *arguments, cwd=project)
    assert done.returncode in (1, 2) and said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_project_without_git_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "prompts").mkdir()
    write(tmp_path, "greeter", "")
    done = run("prompts", "log", "greeter", cwd=tmp_path)
    assert done.returncode == 1 and "prompt greeter is in no git repository" in " ".join(done.stderr.split())
    assert run("prompts", "check", cwd=tmp_path).returncode == 0

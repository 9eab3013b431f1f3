"""`mesh registry promote`: a registered version becomes a commit of the prompt file on a new branch."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.running_mesh import run

TEXT = "---\ntags: [default]\n---\nYou greet people.{}\n"
WHO = {
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "a@x",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "a@x",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a prompt file, of which two other versions are registered."""
    folder = tmp_path / "project"
    for name in ("actors", "prompts"):
        (folder / name).mkdir(parents=True)
    (folder / ".gitignore").write_text(".mesh/\n")
    file = folder / "prompts" / "greeter.prompt"
    file.write_text(TEXT.format(""))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Greet people")
    for more in (" Be kind.", " Be brief."):
        file.write_text(TEXT.format(more))
        succeeds(folder, "add", str(file), "--message", f"As asked:{more}")
    git(folder, "checkout", "-q", "--", "prompts")
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **WHO}, capture_output=True, check=True)
    return done.stdout.decode().strip()


def succeeds(project: Path, *arguments: str, **environment: str) -> str:
    done = run("registry", *arguments, cwd=project, **WHO, **environment)
    assert done.returncode == 0, done
    return done.stdout


def state(project: Path) -> tuple[str, str, str]:
    """All that a person sees of the work: status, what is staged, and what is checked out."""
    return git(project, "status", "--porcelain"), git(project, "diff", "--cached"), git(project, "log", "-1")


def digest_in(project: Path, branch: str, path: str = "prompts/greeter.prompt") -> str:
    shown = subprocess.run(["git", "show", f"{branch}:{path}"], cwd=project, capture_output=True, check=True)
    return hashlib.sha256(shown.stdout).hexdigest()


def test_a_version_becomes_a_commit_and_the_work_of_the_person_stays(project: Path) -> None:
    (project / "prompts" / "greeter.prompt").write_text("half written")
    (project / "staged").write_text("and staged")
    git(project, "add", "staged")
    before = state(project)
    said = succeeds(project, "promote", "greeter")
    assert state(project) == before
    registered = json.loads(succeeds(project, "show", "greeter", "--json"))
    branch = "promote-greeter-v2"
    assert digest_in(project, branch) == registered["digest"]
    assert git(project, "diff", "--name-only", "main", branch) == "prompts/greeter.prompt"
    assert git(project, "rev-parse", f"{branch}~1") == git(project, "rev-parse", "main")
    message = git(project, "log", "-1", "--format=%an %B", branch)
    assert message.startswith("Ann Promote prompt greeter v2\n\nAs asked: Be brief.\n\nRegistered by ")
    assert registered["digest"] in message
    assert f"commit: {git(project, 'rev-parse', branch)}\nnext: git merge {branch}\n" in said
    git(project, "remote", "add", "origin", str(project))
    git(project, "stash")
    git(project, "merge", "-q", branch)
    [version] = json.loads(run("prompts", "log", "greeter", "--limit", "1", "--json", cwd=project).stdout)
    assert version["version"] == registered["digest"][:12]  # as agents name it


def test_a_version_by_number_or_label_goes_to_a_named_branch(project: Path) -> None:
    succeeds(project, "label", "greeter", "production", "1")
    git(project, "remote", "add", "upstream", str(project))
    said = succeeds(
        project, "promote", "greeter", "--label", "production", "--branch", "x/kind", "--message", "Be kind"
    )
    assert "next: git push -u upstream x/kind, and open a pull request\n" in said
    assert "then: mesh registry unlabel greeter production" in said
    assert git(project, "log", "-1", "--format=%s", "x/kind") == "Be kind"
    made = json.loads(succeeds(project, "promote", "greeter", "--version", "1", "--json"))
    assert (made["branch"], made["version"], made["is_new"]) == ("promote-greeter-v1", 1, False)
    assert digest_in(project, "x/kind") == digest_in(project, made["commit"]) == made["digest"]


def test_a_prompt_without_a_file_gets_one_and_so_does_a_mesh_in_a_subfolder(project: Path) -> None:
    below = project / "deep" / "mesh"
    (below / "actors").mkdir(parents=True)
    file = project.parent / "new.prompt"
    file.write_text(TEXT.format(" Newly."))
    succeeds(below, "add", str(file))
    made = json.loads(succeeds(below, "promote", "new", "--json", GIT_DIR=str(project.parent)))
    assert (made["path"], made["is_new"]) == ("deep/mesh/prompts/new.prompt", True)
    assert digest_in(project, made["branch"], made["path"]) == made["digest"]
    assert not (below / "prompts").exists()


def test_no_program_that_the_repository_names_is_run(project: Path) -> None:
    trap, script = project.parent / "trap", project.parent / "ran.sh"
    script.write_text(f"#!/bin/sh\ntouch {trap}\ncat\n")
    script.chmod(0o755)
    (project / ".git" / "hooks" / "reference-transaction").symlink_to(script)
    (project / ".git" / "hooks" / "post-index-change").symlink_to(script)
    (project / ".gitattributes").write_text("*.prompt filter=trap\n")
    for setting in (
        "core.fsmonitor",
        "filter.trap.clean",
        "filter.trap.smudge",
        "gpg.program",
        "core.editor",
    ):
        git(project, "config", setting, str(script))
    git(project, "config", "commit.gpgSign", "true")
    succeeds(project, "promote", "greeter")
    assert not trap.exists()


def test_what_cannot_be_promoted_is_refused_with_a_remedy(project: Path) -> None:
    before = git(project, "for-each-ref"), state(project)

    def refused(*arguments: str, cwd: Path = project, **environment: str) -> str:
        done = run("registry", "promote", *arguments, cwd=cwd, **WHO, **environment)
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done
        return " ".join(done.stderr.split())

    assert "no prompt 'other' is registered" in refused("other").replace("No prompt", "no prompt")
    assert "has no version 9" in refused("greeter", "--version", "9")
    assert "give either --version or --label" in refused("greeter", "--version", "1", "--label", "x")
    assert "there is a branch 'main' already; name another by --branch" in refused(
        "greeter", "--branch", "main"
    )
    for name in ("-d", "a..b", "a b", "@{-1}"):
        assert "name another by --branch" in refused("greeter", f"--branch={name}"), name
    assert (git(project, "for-each-ref"), state(project)) == before
    succeeds(project, "promote", "greeter", "--branch", "brief")
    git(project, "merge", "-q", "brief")
    assert "has this text already in the commit" in refused("greeter", "--branch", "again")
    empty = project.parent / "empty"
    empty.mkdir()
    data = str(project / ".mesh")
    assert "has neither agents nor prompts" in refused("greeter", "--data", data, cwd=empty)
    (empty / "actors").mkdir()
    assert "in no git repository; put the project under git" in refused("greeter", "--data", data, cwd=empty)
    git(empty, "init", "-q")
    assert "has no commit yet; commit the project first" in refused("greeter", "--data", data, cwd=empty)

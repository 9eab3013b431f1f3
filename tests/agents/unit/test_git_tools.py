"""The git tools over real repositories, hostile ones included."""

import asyncio
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshwright.agents.sandbox.process import run
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.tools import GitTools, ToolSettings
from tests.support.sample_tools import limited_tools

pytestmark = pytest.mark.needs("git")


CONTEXT: Any = SimpleNamespace(task=SimpleNamespace(timeout=None))


class Repository:
    """A repository; `git` runs a command in it, as its owner does."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=Ada L", "-c", "user.email=ada@example.org"]
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        subprocess.run(["git", *identity, *arguments], cwd=self.root, env=environment, check=True)

    def commit(self, path: str, text: str, message: str) -> None:
        self.write(path, text)
        self.git("add", path)
        self.git("commit", "-q", "-m", message)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def tools(self, **settings: Any) -> GitTools:
        return GitTools(ToolSettings(workspace=self.root, **settings))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two commits."""
    repository = Repository(tmp_path_factory.mktemp("original"))
    repository.git("init", "-q", "-b", "main")
    repository.commit("a.txt", "one\n", "First: add a")
    repository.commit("docs/b.txt", "two\n", "Second: add b, with\na body")
    return repository.root


@pytest.fixture
def repository(original: Path, tmp_path: Path) -> Repository:
    """A copy of its own for each test."""
    return Repository(shutil.copytree(original, tmp_path / "repository"))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is over may wait to be reaped by a parent that is not ours."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def subjects(log: list[dict[str, str]]) -> list[str]:
    return [commit["subject"] for commit in log]


async def test_the_log_lists_commits_newest_first(repository: Repository) -> None:
    log = await repository.tools().git_log()
    assert subjects(log) == ["Second: add b, with a body", "First: add a"]
    assert set(log[0]) == {"commit", "date", "author", "subject"}
    assert log[0]["author"] == "Ada L"


async def test_the_log_keeps_to_a_number_and_a_path(repository: Repository) -> None:
    tools = repository.tools()
    assert len(await tools.git_log(max_count=1)) == 1
    assert subjects(await tools.git_log(path="a.txt")) == ["First: add a"]
    assert subjects(await tools.git_log(path="docs")) == ["Second: add b, with a body"]
    assert await tools.git_log(path="none.txt") == []


async def test_the_difference_of_two_revisions(repository: Repository) -> None:
    diff = await repository.tools().git_diff("HEAD~1..HEAD")
    assert diff.startswith("diff --git a/docs/b.txt b/docs/b.txt")
    assert diff.endswith("+two\n")


async def test_the_difference_with_the_files_as_they_are(repository: Repository) -> None:
    repository.write("a.txt", "changed\n")
    repository.write("docs/b.txt", "changed too\n")
    tools = repository.tools()
    assert (await tools.git_diff(path="a.txt")).endswith("-one\n+changed\n")
    assert "changed too" in await tools.git_diff()


async def test_a_long_difference_is_cut_and_says_so(repository: Repository) -> None:
    repository.write("a.txt", "x" * 10_000)
    for max_chars in (300, 5_000):
        diff = await repository.tools(max_text_chars=max_chars).git_diff()
        assert diff.endswith("\n[cut: there is more; ask for one path]")
        assert len(diff) < max_chars + 50


@pytest.mark.parametrize(
    "revisions",
    [
        "",
        "-p",
        "--output=x",
        "--no-index",
        "HEAD --output=x",
        "HEAD:a.txt",
        "a\nb",
        "HEAD\n",
        "@{-1}",
        "docs/../../out",
        "a/..",
        "a../b",
        "a;b",
        "$(x)",
    ],
)
async def test_only_names_of_revisions_reach_git(repository: Repository, revisions: str) -> None:
    import json

    _, diff = limited_tools(repository.tools())
    with pytest.raises(InvalidInput) as caught:
        await diff.call(json.dumps({"revisions": revisions}), CONTEXT)
    assert caught.value.field == "revisions"


@pytest.mark.parametrize(
    "revisions", ["HEAD", "main", "v1.0", "HEAD~2..HEAD", "main...feature/x-1", "HEAD^", "abc123^2~3"]
)
async def test_the_usual_names_of_revisions_are_taken(repository: Repository, revisions: str) -> None:
    repository.git("tag", "v1.0")
    _, diff = limited_tools(repository.tools())
    with suppress(ToolFailed):  # git does not know each of them; the tool refuses none
        await diff.call(f'{{"revisions": "{revisions}"}}', CONTEXT)


async def test_what_git_says_of_a_failure_is_told(repository: Repository) -> None:
    with pytest.raises(ToolFailed, match="git rev-parse failed: fatal: bad revision 'no-such-branch'"):
        await repository.tools().git_diff("no-such-branch")


@pytest.mark.parametrize("path", ["..", "../secret.txt", "/etc", ":(top)", ":/", "--all"])
async def test_a_path_is_a_path_in_the_workspace_and_nothing_else(repository: Repository, path: str) -> None:
    (repository.root.parent / "secret.txt").write_text("secret")
    try:
        assert await repository.tools().git_log(path=path) == []
    except InvalidInput as error:
        assert "leads out of the workspace" in str(error)


async def test_a_workspace_inside_a_larger_repository_shows_nothing_of_it(repository: Repository) -> None:
    inner = GitTools(ToolSettings(workspace=repository.root / "docs"))
    with pytest.raises(ToolFailed, match="this workspace is no git repository"):
        await inner.git_log()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the workspace that holds a secret."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "id_rsa").write_text("SECRET\n")
    return folder


@pytest.mark.parametrize("place", ["plain", "repository/docs"])
@pytest.mark.parametrize("revisions", ["big", "HEAD"])
async def test_no_repository_compares_no_folders_of_the_machine(
    repository: Repository, outside: Path, tmp_path: Path, place: str, revisions: str
) -> None:
    big = tmp_path / place / "big"
    big.mkdir(parents=True)
    for number in range(40):
        (big / f"zz{number}").write_text("line\n" * 2_000)
    tools = GitTools(ToolSettings(workspace=big.parent))
    for path in (str(outside), str(big), "../outside", "big", ""):
        with pytest.raises((InvalidInput, ToolFailed)) as caught:
            await tools.git_diff(revisions, path)
        assert "SECRET" not in str(caught.value)
        assert "leads out" in str(caught.value) or "is no git repository" in str(caught.value)


async def test_revisions_cannot_name_a_folder_outside(repository: Repository, outside: Path) -> None:
    _, diff = limited_tools(repository.tools())
    with pytest.raises(InvalidInput):
        await diff.call('{"revisions": "docs/../../outside", "path": "docs"}', CONTEXT)


async def test_a_folder_of_the_history_is_no_revision(repository: Repository) -> None:
    repository.commit(".aws/config", "SECRET\n", "Oops")
    command = ["git", "rev-parse", "HEAD:.aws"]
    tree = subprocess.run(command, cwd=repository.root, check=True, capture_output=True, text=True).stdout
    with pytest.raises(ToolFailed, match=r"bad revision|expected commit"):
        await repository.tools().git_diff(f"{tree.strip()}..HEAD")


@pytest.mark.parametrize(
    "path",
    [".env", "app/prod.env", "keys/id_rsa", ".aws/credentials", "SECRETS.yaml", "a/.docker/config.json"],
)
async def test_private_files_are_in_no_difference_and_no_log(repository: Repository, path: str) -> None:
    repository.commit(path, "SECRET\n", "Oops")
    repository.commit("a.txt", "changed\n", "Third")
    repository.write(path, "SECRET too\n")
    repository.write("a.txt", "changed again\n")
    tools = repository.tools()
    for revisions in ("HEAD", "HEAD~2", "HEAD~2..HEAD", "HEAD~2...HEAD"):
        diff = await tools.git_diff(revisions)
        assert "changed" in diff
        assert "SECRET" not in diff
        assert path not in diff
    for call in (tools.git_diff("HEAD~2", path), tools.git_log(path=path)):
        with pytest.raises(InvalidInput, match="is private"):
            await call


async def test_hidden_paths_are_in_no_difference(repository: Repository) -> None:
    repository.commit("state/notes.txt", "SECRET\n", "Oops")
    hidden = (repository.root / "state",)
    tools = GitTools(ToolSettings(workspace=repository.root, hidden=hidden))
    assert await tools.git_diff("HEAD~1..HEAD") == ""
    with pytest.raises(InvalidInput, match="is private"):
        await tools.git_diff("HEAD~1..HEAD", "state/notes.txt")


@pytest.mark.parametrize("kind", ["file", "link", "refs", "commondir", "alternates"])
async def test_the_history_of_another_repository_is_not_shown(
    repository: Repository, tmp_path: Path, kind: str
) -> None:
    private = Repository(tmp_path / "private")
    private.root.mkdir()
    private.git("init", "-q", "-b", "main")
    private.commit("b.txt", "SECRET\n", "SECRET plan")
    mine, theirs = repository.root / ".git", private.root / ".git"
    if kind in ("file", "link"):
        shutil.rmtree(mine)
        mine.write_text(f"gitdir: {theirs}\n") if kind == "file" else mine.symlink_to(theirs)
    elif kind == "refs":
        shutil.rmtree(mine / "refs")
        (mine / "refs").symlink_to(theirs / "refs")
    elif kind == "commondir":
        (mine / "commondir").write_text(f"{theirs}\n")
    else:
        (mine / "objects/info/alternates").write_text(f"{theirs / 'objects'}\n")
        (mine / "refs/heads/main").write_text((theirs / "refs/heads/main").read_text())
    for call in (repository.tools().git_log(), repository.tools().git_diff("main")):
        with pytest.raises(ToolFailed, match="is no git repository of its own") as caught:
            await call
        assert "SECRET" not in str(caught.value)
        assert caught.value.remedy


async def test_a_workspace_elsewhere_by_configuration_shows_nothing_of_it(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.txt").write_text("secret")
    repository.git("config", "core.worktree", str(tmp_path / "elsewhere"))
    assert await repository.tools().git_diff() == ""


@pytest.mark.parametrize(
    ("key", "attributes"),
    [
        ("core.fsmonitor", ""),
        ("diff.external", ""),
        ("diff.evil.command", "diff=evil"),
        ("diff.evil.textconv", "diff=evil"),
        ("filter.evil.clean", "filter=evil"),
        ("filter.ev=il.clean", "filter=ev=il"),
        ("filter.evil.process", "filter=evil"),
        ("gpg.program", ""),
    ],
)
async def test_nothing_that_a_repository_configures_is_run(
    repository: Repository, tmp_path: Path, key: str, attributes: str
) -> None:
    proof = tmp_path / "ran"
    program = tmp_path / "program"
    # It answers like gpg where that is asked to sign; git must never get so far as to call it.
    signs = "echo '-----BEGIN PGP SIGNATURE-----'; echo >&2; echo '[GNUPG:] SIG_CREATED ' >&2"
    program.write_text(f'#!/bin/sh\ntouch {proof}\n[ "$1" != --status-fd=2 ] || cat > /dev/null\n{signs}\n')
    program.chmod(0o755)
    repository.git("config", key, str(program))
    if key == "gpg.program":
        repository.git("config", "log.showSignature", "true")
        repository.git("commit", "-q", "-S", "--allow-empty", "-m", "Signed")
    (repository.root / ".git/info/attributes").write_text(f"*.txt {attributes}\n" if attributes else "")
    repository.git("config", "filter.evil.required", "true")
    repository.write("a.txt", "changed\n")
    tools = repository.tools()
    proof.unlink(missing_ok=True)
    assert subjects(await tools.git_log(path="a.txt")) == ["First: add a"]
    assert len(await tools.git_log()) >= 2
    assert "+changed" in await tools.git_diff()
    assert not proof.exists()
    for command in ("log", "diff"):  # without the guards, so that the trap is known to be one
        subprocess.run(["git", command], cwd=repository.root, check=False, capture_output=True)
    assert proof.exists()


async def test_nothing_is_written_to_the_repository(repository: Repository) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.root.rglob("*")}
    os.utime(repository.root / "a.txt", ns=(1, 1))  # so that git would want to refresh its index
    before[repository.root / "a.txt"] = 1
    await repository.tools().git_diff()
    assert {path: path.stat().st_mtime_ns for path in repository.root.rglob("*")} == before


async def test_a_program_is_stopped_after_the_time_limit_with_what_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = ["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"]
    with pytest.raises(ToolFailed, match="sh took longer than 3 seconds"):
        await run(
            command,
            folder=tmp_path,
            environment={"PATH": os.environ["PATH"]},
            timeout_seconds=3,
            max_output_bytes=10,
        )
    async with asyncio.timeout(240):
        while is_alive(int(pid_file.read_text())):  # killed, but the system may not have buried it yet
            await asyncio.sleep(0.01)


async def test_a_program_that_writes_without_end_is_stopped_at_the_limit(tmp_path: Path) -> None:
    finished = await run(
        ["sh", "-c", "while :; do echo x; done"],
        folder=tmp_path,
        environment={"PATH": os.environ["PATH"]},
        timeout_seconds=20,
        max_output_bytes=1_000,
    )
    assert finished.is_cut
    assert len(finished.output) == 1_000


async def test_a_missing_git_is_told(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = repository.tools()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolFailed, match="git cannot be started: No such file"):
        await tools.git_log()

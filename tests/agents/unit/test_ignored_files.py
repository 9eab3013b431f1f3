"""Files that a repository ignores stay out of commits, files that a task has ignored do not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from meshwright.agents.trees.tree import Tree
from meshwright.core.errors import ToolFailed
from tests.support.repositories import CALC, repository, tree_of

pytestmark = pytest.mark.needs("git")
RULES = {
    ".gitignore": "\ufeff# rules\n\n*.log\r\nbuild/\n!keep.log\n/top.txt\n",
    "app/.gitignore": "secret.txt\n/only-here\nout/*.js\n!wanted.log\n",
    "app/a[1]/.gitignore": "*\n!.gitignore\n!shown\n",
    "sub/tracked.log": "as it was\n",
}


async def write(tree: Tree, *paths: str) -> None:
    def work() -> None:
        for path in paths:
            tree.files.write(path, f"{path}\n")

    await tree.once(" ".join(paths), lambda: asyncio.to_thread(work))


async def changed(tree: Tree) -> list[str]:
    return [change.path for change in await tree.changed()]


@pytest.fixture
async def tree(tmp_path: Path) -> Tree:
    return await tree_of(repository(tmp_path / "calc"), tmp_path / "trees")


@pytest.mark.parametrize("rule", ["*", "conftest.py", "/conftest.py", "**/*.py\n.gitignore"])
async def test_rules_that_a_task_writes_hide_no_file(tree: Tree, rule: str) -> None:
    await write(tree, "conftest.py", "sub/conftest.py")
    (tree.root / ".gitignore").write_text(f"{rule}\n")
    (tree.root / "sub" / ".gitignore").write_text("*\n")
    (tree.root / ".git" / "info").mkdir(parents=True)
    (tree.root / ".git" / "info" / "exclude").write_text("*\n")
    snapshot, listed, diff, left_out = await tree.proposal()
    wanted = [".gitignore", "conftest.py", "sub/.gitignore", "sub/conftest.py"]
    assert [change.path for change in listed] == wanted
    assert "+sub/conftest.py" in diff
    assert left_out == []
    assert "sub/conftest.py:1:" in await tree.search("conftest", "*.py")
    await tree.commit("All", expected=snapshot)
    await tree.revert()
    assert sorted(file.path for file in tree.files.walk("", 10)[0]) == sorted(CALC)


async def test_a_failed_step_takes_back_the_files_that_it_has_ignored(tree: Tree) -> None:
    async def fail() -> None:
        (tree.root / ".gitignore").write_text("*\n")
        (tree.root / "conftest.py").write_text("x = 1\n")
        raise ToolFailed("it broke")

    with pytest.raises(ToolFailed, match="it broke"):
        await tree.once("fail", fail)
    assert sorted(os.listdir(tree.root)) == sorted(CALC)


async def test_the_rules_of_the_first_commit_hold_and_what_they_leave_out_is_said(tmp_path: Path) -> None:
    tree = await tree_of(repository(tmp_path / "rules", RULES), tmp_path / "trees")
    (tree.root / ".gitignore").unlink()
    shown = {
        "app/a[1]/x/shown",
        "app/out/x.ts",
        "app/shown.txt",
        "app/wanted.log",
        "app/x/only-here",
        "app/x/out/x.js",
        "keep.log",
        "secret.txt",
        "sub/top.txt",
    }
    hidden = {
        "app/a[1]/hidden",
        "app/only-here",
        "app/out/x.js",
        "app/secret.txt",
        "app/x/secret.txt",
        "sub/x.log",
        "top.txt",
    }
    await write(tree, *shown - {"app/a[1]/x/shown"}, *hidden, "build/x", "sub/__pycache__/x.pyc")
    await write(tree, "app/a[1]/shown", "sub/tracked.log")
    wanted = {*shown, ".gitignore", "sub/tracked.log", "app/a[1]/shown"} - {"app/a[1]/x/shown"}
    assert {*await changed(tree)} == wanted
    assert {*await tree.left_out()} == {*hidden, "build/", "sub/__pycache__/"}


async def test_files_that_become_folders_and_links_are_recorded(tmp_path: Path) -> None:
    files = {"a": "file\n", "b/c": "in a folder\n", "gone": "x\n", "\u00e4\n\t": "odd\n"}
    tree = await tree_of(repository(tmp_path / "kinds", files), tmp_path / "trees")
    before = await tree.snapshot()
    (tree.root / "a").unlink()
    (tree.root / "gone").unlink()
    (tree.root / "b" / "c").unlink()
    (tree.root / "b").rmdir()
    (tree.root / "b").symlink_to("/etc")
    (tree.root / b"\xff".decode(errors="surrogateescape")).write_text("x\n")
    await write(tree, "a/inner/file")
    assert await changed(tree) == ["a", "a/inner/file", "b", "b/c", "gone", "\ufffd"]
    await tree.restore(before)
    assert await tree.diff() == ""
    assert (tree.root / "b" / "c").read_text() == "in a folder\n"


async def test_a_tree_of_an_earlier_version_takes_the_rules_of_its_commit(tmp_path: Path) -> None:
    tree = await tree_of(repository(tmp_path / "rules", RULES), tmp_path / "trees")
    (tree.repository / "info" / "rules").unlink(missing_ok=True)
    (tree.repository / "info" / "exclude").write_text("*.py\n")
    await write(tree, "x.log", "x.py")
    assert await changed(tree) == ["x.py"]


async def test_a_file_that_becomes_a_pipe_is_undone(tree: Tree) -> None:
    (tree.root / "calc.py").unlink()
    os.mkfifo(tree.root / "calc.py")
    assert await changed(tree) == ["calc.py"]
    await tree.revert()
    assert await tree.diff() == ""

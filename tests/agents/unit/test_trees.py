"""Trees: made from a repository, changed in steps, and proposed; hostile repositories included."""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from meshwright.agents.trees.tree import Tree
from meshwright.core.errors import Conflict, InvalidInput, NotFound, ToolFailed
from tests.support.repositories import CALC, git, repository, tree_of, trees_of

pytestmark = pytest.mark.needs("git")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("source") / "calc")


@pytest.fixture
async def tree(source: Path, tmp_path: Path) -> Tree:
    return await tree_of(source, tmp_path / "trees")


async def written(tree: Tree, path: str, text: str) -> None:
    await tree.once(f"write {path} {text}", lambda: asyncio.to_thread(tree.files.write, path, text))


async def test_a_tree_has_the_files_and_nothing_of_git(tree: Tree) -> None:
    assert sorted(path.name for path in tree.root.iterdir()) == sorted(CALC)
    assert await tree.diff() == ""
    assert tree.folder.stat().st_mode & 0o077 == 0


async def test_a_family_of_tasks_shares_a_tree(source: Path, tmp_path: Path) -> None:
    trees = trees_of(source, tmp_path / "trees")
    one, other = await asyncio.gather(trees.lease("default", "t1"), trees.lease("default", "t1"))
    assert one is other
    assert (await trees.lease("default", "t2")).root != one.root
    assert (await trees.lease("acme", "t1")).root != one.root
    assert [lease.tree_id for lease in trees.leases("default")] == ["t1", "t2"]


async def test_a_clone_that_takes_longer_than_a_call_goes_on(source: Path, tmp_path: Path) -> None:
    trees = trees_of(source, tmp_path / "trees")
    first = asyncio.create_task(trees.lease("default", "t1"))
    await asyncio.sleep(0)
    second = asyncio.create_task(trees.lease("default", "t1"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).files.has("calc.py")


async def test_a_commit_is_on_its_own_branch_and_made_once(tree: Tree, source: Path) -> None:
    await written(tree, "calc.py", "def add(a, b):\n    return a + b\n")
    await written(tree, "docs/new.md", "new\n")
    assert [tuple(change) for change in await tree.changed()] == [("M", "calc.py"), ("A", "docs/new.md")]
    revision = await tree.commit("Add numbers\n\nThey were subtracted.")
    assert await tree.commit("Add numbers\n\nThey were subtracted.") == revision
    with pytest.raises(InvalidInput, match="nothing has changed"):
        await tree.commit("Another title")
    git(source, "fetch", "-q", str(tree.repository), tree.branch)
    assert git(source, "show", "FETCH_HEAD:docs/new.md") == "new\n"
    assert git(source, "log", "--format=%s %an", "FETCH_HEAD") == "Add numbers Meshwright\none Ada L\n"


async def test_only_the_approved_tree_is_committed(tree: Tree) -> None:
    await written(tree, "calc.py", "one\n")
    approved = await tree.snapshot()
    await written(tree, "calc.py", "another\n")
    with pytest.raises(Conflict):
        await tree.commit("Change it", expected=approved)
    assert await tree.head() == tree.lease.base


async def test_a_step_is_made_once_and_a_failed_one_leaves_nothing(tree: Tree) -> None:
    made: list[str] = []

    async def work() -> dict[str, int]:
        made.append("x")
        tree.files.write("log.txt", "".join(made))
        return {"made": len(made)}

    async def fail() -> None:
        tree.files.write("half.txt", "half")
        raise ToolFailed("it broke")

    assert await tree.once("step 1", work) == await tree.once("step 1", work) == {"made": 1}
    with pytest.raises(ToolFailed, match="it broke"):
        await tree.once("step 2", fail)
    assert not tree.files.has("half.txt")
    assert tree.files.read("log.txt", 100) == "x"


async def test_a_failed_step_leaves_no_commit(tree: Tree) -> None:
    await written(tree, "calc.py", "new\n")

    async def commit(*, fails: bool) -> str:
        revision = await tree.commit("Change it")
        if fails:
            raise ToolFailed("the disk is full")
        return revision

    with pytest.raises(ToolFailed, match="the disk is full"):
        await tree.once("step 1", partial(commit, fails=True))
    assert await tree.head() == tree.lease.base
    assert [change.path for change in await tree.changed()] == ["calc.py"]
    revision = await tree.once("step 2", partial(commit, fails=False))
    await written(tree, "calc.py", "newer\n")
    with pytest.raises(ToolFailed, match="the disk is full"):
        await tree.once("step 3", partial(commit, fails=True))
    assert await tree.head() == revision


async def test_a_step_that_was_cut_off_is_undone(source: Path, tmp_path: Path) -> None:
    tree = await tree_of(source, tmp_path / "trees")
    begun = asyncio.Event()

    async def work() -> None:
        tree.files.write("half.txt", "half")
        (tree.root / "calc.py").unlink()
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(tree.once("step 1", work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tree.files.has("half.txt")
    again = await tree_of(source, tmp_path / "trees")
    assert await again.diff() == ""


async def test_locks_of_a_git_that_was_killed_are_removed(tree: Tree) -> None:
    (tree.repository / "index.lock").touch()
    await written(tree, "calc.py", "new\n")
    assert len(await tree.changed()) == 1


async def test_revert_takes_back_a_file_or_all(tree: Tree) -> None:
    for path in ("calc.py", "new/one.txt", "new/two.txt"):
        await written(tree, path, "changed\n")
    (tree.root / "test_calc.py").unlink()
    await tree.revert("new")
    await tree.revert("calc.py")
    assert [change.path for change in await tree.changed()] == ["test_calc.py"]
    await tree.revert()
    assert await tree.diff() == ""


@pytest.mark.parametrize(
    "path",
    ["../out.txt", "/etc/passwd", "a/../../out.txt", "out", "out/file", ".git/config", "sub/.GIT/x", ""],
)
async def test_paths_that_lead_out_are_refused(tree: Tree, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").mkdir()
    (tree.root / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidInput):
        tree.files.write(path, "x")
    with pytest.raises(InvalidInput):
        tree.files.read(path, 100)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
@pytest.mark.parametrize("path", ["", "folder", "pipe", "nothing"])
async def test_what_is_no_file_is_refused_and_stays_closed(tree: Tree, path: str) -> None:
    (tree.root / "folder").mkdir()
    os.mkfifo(tree.root / "pipe")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(InvalidInput):
        tree.files.read(path, 100)
    assert os.listdir("/proc/self/fd") == before


async def test_a_link_that_is_put_there_after_the_check_leads_nowhere(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").mkdir()
    inside = tree.files.locate("folder/file")
    (tree.root / "folder").symlink_to(tmp_path / "outside")
    monkeypatch.setattr(tree.files, "locate", lambda path: inside)
    with pytest.raises(InvalidInput):
        tree.files.write("folder/file", "x")
    assert list((tmp_path / "outside").iterdir()) == []


async def test_a_link_in_a_snapshot_writes_nothing_outside(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    await written(tree, "folder/file", "inside\n")
    before = await tree.snapshot()
    (tree.root / "folder" / "file").unlink()
    (tree.root / "folder").rmdir()
    (tree.root / "folder").symlink_to(outside)
    await tree.snapshot()
    await tree.restore(before)
    assert list(outside.iterdir()) == []
    assert tree.files.read("folder/file", 100) == "inside\n"


async def test_a_repository_inside_the_tree_is_removed_and_runs_nothing(tree: Tree, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    for folder in (tree.root / "sub", tree.root):
        folder.mkdir(exist_ok=True)
        git(folder, "init", "-q")
        git(folder, "config", "core.fsmonitor", f"touch {proof}; false")
        git(folder, "config", "core.hooksPath", str(tmp_path))
        (folder / "file.txt").write_text("x\n")
    git(tree.root / "sub", "-c", "core.fsmonitor=", "add", "file.txt")
    git(tree.root / "sub", "-c", "core.fsmonitor=", "-c", "core.hooksPath=", "commit", "-qm", "sub")
    proof.unlink(missing_ok=True)
    assert {change.path for change in await tree.changed()} == {"file.txt", "sub/file.txt"}
    assert not (tree.root / ".git").exists()
    assert not (tree.root / "sub" / ".git").exists()
    assert not proof.exists()


async def test_attributes_and_hooks_of_a_repository_run_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {proof}\ncat\n")
    script.chmod(0o755)
    attributes = "*.txt filter=evil diff=evil merge=evil text eol=crlf working-tree-encoding=UTF-16\n"
    source = repository(tmp_path / "hostile", {"a.txt": "one\ntwo\n"})
    (source / ".gitattributes").write_text(attributes)
    (source / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = x\n\turl = ext::sh -c {script}\n')
    git(source, "add", ".gitattributes", ".gitmodules")
    git(source, "commit", "-qm", "hostile")
    for name in ("post-checkout", "pre-commit", "post-commit", "reference-transaction"):
        (source / ".git" / "hooks" / name).write_text(script.read_text())
        (source / ".git" / "hooks" / name).chmod(0o755)
    for key in ("filter.evil.clean", "filter.evil.smudge", "diff.evil.command", "diff.evil.textconv"):
        git(source, "config", key, str(script))
    git(source, "config", "uploadpack.packObjectsHook", str(script))
    tree = await tree_of(source, tmp_path / "trees")
    assert (tree.root / "a.txt").read_bytes() == b"one\ntwo\n"
    await written(tree, "a.txt", "one\r\nthree\n")
    assert "+one\r\n" in await tree.diff()
    await tree.commit("Change it")
    await tree.revert()
    assert not proof.exists()


async def test_config_of_the_users_home_changes_nothing(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "ran"
    (tmp_path / ".gitconfig").write_text(f'[core]\n\tfsmonitor = "touch {proof}"\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    await written(tree, "calc.py", "new\n")
    assert len(await tree.changed()) == 1
    assert not proof.exists()


async def test_a_tree_over_its_limits_is_as_before(source: Path, tmp_path: Path) -> None:
    tree = await tree_of(source, tmp_path / "trees", max_mb=1, max_files=20)

    async def fill(name: str, size: int, count: int = 1) -> None:
        for number in range(count):
            with (tree.root / f"{name}{number}").open("wb") as file:
                file.truncate(size)

    with pytest.raises(ToolFailed, match="over 20 files or 1 MB"):
        await tree.once("large", lambda: fill("large", 2_000_000))
    with pytest.raises(ToolFailed, match="over 20 files or 1 MB"):
        await tree.once("many", lambda: fill("many", 1, 30))
    assert await tree.diff() == ""
    assert len(list(tree.root.iterdir())) == len(CALC)


async def test_snapshots_that_are_gone_take_no_room(source: Path, tmp_path: Path) -> None:
    tree = await tree_of(source, tmp_path / "trees", max_mb=1)
    objects = tree.repository / "objects"

    for number in range(8):
        data = os.urandom(900_000)
        fill = partial(asyncio.to_thread, (tree.root / "large").write_bytes, data)
        await tree.once(f"fill {number}", fill)
        assert sum(path.stat().st_size for path in objects.rglob("*")) < 6_000_000
    await tree.commit("Fill it")
    assert (tree.root / "large").read_bytes() == data


async def test_odd_files_harm_no_snapshot(tree: Tree) -> None:
    os.mkfifo(tree.root / "pipe")
    (tree.root / "closed").mkdir()
    (tree.root / "closed" / "file").write_text("x")
    (tree.root / "closed").chmod(0)
    (tree.root / b"\xff\n.txt".decode(errors="surrogateescape")).write_text("x")
    await tree.snapshot()
    assert len(await tree.changed()) == 2
    os.mkfifo(tree.root / "pipe")
    with pytest.raises(InvalidInput, match="not a file"):
        tree.files.read("pipe", 100)
    assert all(file.path.isprintable() for file in tree.files.walk("", 100)[0])


async def test_an_erased_tree_is_gone_and_others_stay(source: Path, tmp_path: Path) -> None:
    trees = trees_of(source, tmp_path / "trees")
    tree, other = await trees.lease("default", "t1"), await trees.lease("default", "t2")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside").chmod(0o755)
    (tree.root / "link").symlink_to(tmp_path / "outside")
    await trees.erase("default", ["t1", "unknown"])
    assert not tree.folder.exists()
    assert other.folder.exists()
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o755
    with pytest.raises(NotFound):
        trees.find("default", "t1")


@pytest.mark.parametrize(
    ("settings", "wanted", "complaint"),
    [
        ({"repository": "/nowhere"}, "", "git clone failed"),
        ({"repository": "ext::sh -c touch% x"}, "", "git clone failed"),
        ({"branch": "none"}, "", "git clone failed"),
        ({}, "other", "no repository 'other'"),
    ],
)
async def test_a_tree_that_cannot_be_made_says_why(
    source: Path, tmp_path: Path, settings: dict[str, str], wanted: str, complaint: str
) -> None:
    trees = trees_of(source, tmp_path / "trees")
    trees._sources["code"] = trees._sources["code"].model_copy(update=settings)
    with pytest.raises((ToolFailed, InvalidInput), match=complaint):
        await trees.lease("default", "t1", wanted)
    assert list(tmp_path.glob("trees/*/*")) == []


@pytest.mark.needs("bwrap", "node")
async def test_commands_find_the_packages_of_node_and_the_variables_of_the_settings(
    source: Path, tmp_path: Path
) -> None:
    package = tmp_path / "installed" / "node_modules" / "greeting"
    package.mkdir(parents=True)
    (package / "index.js").write_text("module.exports = `hello ${process.env.WHO}`\n")
    settings = {"read": [package.parent], "env": {"WHO": "Ada"}}
    tree = await tree_of(source, tmp_path / "data" / "trees", **settings)
    greet = ["node", "-p", "require('greeting')"]
    finished = await tree.once("greet", lambda: tree.run(greet))
    assert (finished.status, finished.output) == (0, "hello Ada\n")
    assert await tree.diff() == ""

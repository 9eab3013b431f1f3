"""The files of a tree, each opened folder by folder from its root on and through no link, and git on them.

A path is resolved first, links included, and has to lie inside; a link that is put there after the check
leads nowhere. git works on a bare clone that no tool sees, and on a work tree without git's files. The clone
is ours: no hook, filter, diff driver or setting of the source is in it, and nothing that the tree says makes
git run anything or look elsewhere.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import secrets
import stat
from collections.abc import AsyncGenerator, Collection, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from meshwright.agents.sandbox.process import run
from meshwright.core.errors import InvalidInput, TooLarge, ToolFailed
from meshwright.core.folders import is_folder, open_up, remove_folder

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # to open a pipe would wait for its writer
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)  # of what a tree has
_GIT = ".git"
_BINARY_PROBE_BYTES = 8_192
_MAX_DEPTH, _MAX_PATH_BYTES = 100, 3_800  # of folders: Python walks by recursion, git leaves long paths out
_SKIPPED = frozenset({".venv", "venv", "node_modules", "__pycache__", ".tox"})


class TreeFile(NamedTuple):
    """A file of a tree: its path from the root, and its size in bytes."""

    path: str
    size: int


class TreeFiles:
    """The files under a root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str, max_bytes: int) -> str:
        """The text of a file. Raises InvalidInput for what is none, TooLarge for a big one."""
        inside = self.locate(path)
        try:
            with (
                self._folder(inside.parts[:-1]) as folder,
                open(
                    inside.name or ".", "rb", opener=lambda name, _: os.open(name, _FILE, dir_fd=folder)
                ) as file,
            ):
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise InvalidInput(f"{path!r} is not a file", remedy="list shows what is", field="path")
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(data) > max_bytes:
            raise TooLarge(f"{path!r} has more than {max_bytes:,} bytes", remedy="search it", field="path")
        if b"\0" in data[:_BINARY_PROBE_BYTES]:
            raise InvalidInput(f"{path!r} is not a text file", field="path")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{path!r} is not a text file in UTF-8", field="path") from error

    def has(self, path: str) -> bool:
        """Whether there is something at a path."""
        return (self.root / self.locate(path)).exists()

    def write(self, path: str, text: str) -> None:
        """Write a file, whole or not at all; its folders are made, its mode stays. Raises InvalidInput."""
        inside = self.locate(path)
        draft = f".{secrets.token_hex(8)}.draft"
        if not inside.name:
            raise InvalidInput("the path names no file", field="path")
        try:
            with self._folder(inside.parts[:-1], make=True) as folder:
                mode = _file_mode(inside.name, folder, path)
                with os.fdopen(os.open(draft, _NEW, mode, dir_fd=folder), "wb") as file:
                    file.write(text.encode())
                    os.fchmod(file.fileno(), mode)
                os.rename(draft, inside.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            problem = f"{path!r} cannot be written: {error.strerror}"
            raise InvalidInput(problem, remedy="list shows what there is", field="path") from error

    def walk(self, folder: str, most: int) -> tuple[list[TreeFile], bool]:
        """The files in and below a folder in a fixed order, and whether that is all of them.

        Links are left out, as are folders of packages and caches.
        """
        start = self.locate(folder)
        files: list[TreeFile] = []
        try:
            with self._folder(start.parts) as fd:
                for where, folders, names, folder_fd in os.fwalk(".", dir_fd=fd):
                    folders[:] = sorted(name for name in folders if _is_shown(name))
                    for name in sorted(filter(_is_shown, names)):
                        with suppress(OSError):  # removed since the folder was listed
                            about = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
                            if stat.S_ISREG(about.st_mode):
                                files.append(TreeFile((start / where / name).as_posix(), about.st_size))
                    if len(files) > most:
                        return files[:most], False
        except OSError as error:
            raise _unreadable(folder, error) from error
        return files, True

    def locate(self, path: str) -> PurePath:
        """The target of a path from the root on, links included; it need not exist.

        Raises InvalidInput for a path that leads out of the tree, or to git's own files.
        """
        root = os.path.realpath(self.root)
        try:
            inside = PurePath(os.path.realpath(self.root / path)).relative_to(root)
        except ValueError as error:
            remedy = "Give a path from the root of the tree on, as list shows them"
            raise InvalidInput(f"{path!r} leads out of the tree", remedy=remedy, field="path") from error
        if any(part.casefold() == _GIT for part in inside.parts):
            raise InvalidInput(f"{path!r} is git's own", remedy="The mesh commits", field="path")
        return inside

    def tidy(self, max_files: int, max_bytes: int) -> None:
        """Remove what would be a repository of its own, pipes and sockets; make readable what is not.

        Raises ToolFailed where the tree has more files or bytes than it may, or is nested too deep.
        """
        count = size = 0
        self.root.chmod(0o700)
        for where, folders, names, fd in os.fwalk(self.root, topdown=True, onerror=None):
            for name in [name for name in (*folders, *names) if name.casefold() == _GIT]:
                self._remove(name, fd)
            if folders and self._is_deep(where):
                raise ToolFailed(
                    f"the tree has folders deeper than {_MAX_DEPTH}, or with longer paths than git takes",
                    remedy="Nest them less",
                )
            folders[:] = [name for name in folders if name.casefold() != _GIT]
            for name in (*folders, *names):
                with suppress(FileNotFoundError):
                    about = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    size += about.st_size
                    if stat.S_IFMT(about.st_mode) not in _KINDS:  # git takes no pipe in place of a file
                        os.unlink(name, dir_fd=fd)
                        continue
                    needed = 0o700 if stat.S_ISDIR(about.st_mode) else 0o600
                    if not stat.S_ISLNK(about.st_mode) and about.st_mode & needed != needed:
                        os.chmod(name, stat.S_IMODE(about.st_mode) | needed, dir_fd=fd)
            count += len(folders) + len(names)
            if count > max_files or size > max_bytes:
                raise ToolFailed(
                    f"the tree has over {max_files:,} files or {max_bytes // 1_000_000:,} MB",
                    remedy="Leave out what can be made again, or raise max_files or max_mb in [trees]",
                )

    def cut_deep(self) -> None:
        """Remove the folders that are too deep for `tidy`."""
        self.root.chmod(0o700)
        for where, folders, _, fd in os.fwalk(self.root, topdown=True, onerror=None):
            for name in folders:
                open_up(name, fd)
            while folders and self._is_deep(where):
                self._remove(folders.pop(), fd)

    def _is_deep(self, folder: str) -> bool:
        inside = folder[len(str(self.root)) :]
        return inside.count("/") >= _MAX_DEPTH or len(os.fsencode(inside)) > _MAX_PATH_BYTES

    def _remove(self, name: str, folder: int) -> None:
        if not is_folder(name, folder):
            os.unlink(name, dir_fd=folder)
            return
        open_up(name, folder)
        doomed = self.root / f".{secrets.token_hex(8)}.removed"
        os.rename(name, doomed, src_dir_fd=folder)
        remove_folder(doomed)

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Generator[int]:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=fd)
                parent, fd = fd, os.open(part, _FOLDER, dir_fd=fd)
                os.close(parent)
            yield fd
        finally:
            os.close(fd)


def _file_mode(name: str, folder: int, path: str) -> int:
    try:
        about = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return 0o644
    if not stat.S_ISREG(about.st_mode):
        raise InvalidInput(f"{path!r} is not a file", remedy="list shows what is", field="path")
    return stat.S_IMODE(about.st_mode) & 0o777


def _is_shown(name: str) -> bool:
    skipped = name in _SKIPPED or name.endswith("_cache") or name.casefold() == _GIT
    return not skipped and name.isprintable()  # a name that is not UTF-8 could not be written as JSON


def _unreadable(path: str, error: OSError) -> InvalidInput:
    problem = f"{path!r} cannot be read: {error.strerror}"
    return InvalidInput(problem, remedy="list shows what can", field="path")


# git

_MAX_OUTPUT_BYTES = 8_000_000
_SECONDS, _CLONE_SECONDS, _REACH_SECONDS = 120.0, 600.0, 8.0
_CONFIG = {
    "advice.addEmbeddedRepo": "false",
    "commit.gpgSign": "false",
    "core.attributesFile": os.devnull,
    "core.bare": "false",
    "core.excludesFile": os.devnull,
    "core.fsmonitor": "",
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",
    "core.untrackedCache": "false",
    "diff.renames": "true",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
}
_IDENTITY = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "Meshwright"), ("EMAIL", "mesh@localhost"))
}
_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}
# The files of a repository say how git converts others: contents stay as they are, byte by byte.
_ATTRIBUTES = "* -text -ident !eol !filter !diff !merge !working-tree-encoding !export-subst\n"


class Git:
    """Runs git on a clone and its work tree. Raises ToolFailed with git's words where it fails."""

    def __init__(self, git_dir: Path, work_tree: Path) -> None:
        self.git_dir, self.work_tree = git_dir, work_tree

    async def clone(self, repository: str, branch: str) -> None:
        """Clone a branch of a repository, without hard links to its objects."""
        chosen = ["--branch", branch] if branch else []
        kind = ["--bare", "--no-local", "--single-branch", "--no-tags", "--template=", "--quiet"]
        await self._ask("clone", *kind, *chosen, "--", repository, str(self.git_dir))
        (self.git_dir / "info").mkdir(exist_ok=True)
        (self.git_dir / "info" / "attributes").write_text(_ATTRIBUTES)

    async def reach(self, repository: str, branch: str) -> None:
        """Look whether a repository answers, and has the branch."""
        ref = f"refs/heads/{branch}" if branch else "HEAD"
        if not await self._ask("ls-remote", "--", repository, ref, seconds=_REACH_SECONDS):
            raise ToolFailed(f"it has no branch {branch}" if branch else "it has no commits")

    async def _ask(self, *arguments: str, seconds: float = _CLONE_SECONDS) -> str:
        """Run a command of git that asks another repository, as the user of the mesh."""
        users = {name: os.environ[name] for name in ("HOME", "SSH_AUTH_SOCK") if name in os.environ}
        ssh = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", "GIT_ALLOW_PROTOCOL": "file:http:https:ssh"}
        return await self._run(list(arguments), {**users, **ssh}, seconds, _MAX_OUTPUT_BYTES)

    async def __call__(
        self,
        *arguments: str,
        max_bytes: int = _MAX_OUTPUT_BYTES,
        accepted: Collection[int] = (0,),
        stdin: str = "",
    ) -> str:
        """Run a command of git in the tree, with `stdin`; returns its output, cut at `max_bytes`."""
        own = {
            "GIT_DIR": str(self.git_dir),
            "GIT_WORK_TREE": str(self.work_tree),
            "GIT_ALLOW_PROTOCOL": "none",
        }
        return await self._run(list(arguments), {**own, **_IDENTITY}, _SECONDS, max_bytes, accepted, stdin)

    async def _run(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        seconds: float,
        max_bytes: int,
        accepted: Collection[int] = (0,),
        stdin: str = "",
    ) -> str:
        values = {"GIT_CONFIG_COUNT": str(len(_CONFIG))}
        for number, (key, value) in enumerate(_CONFIG.items()):
            values |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        path = {"PATH": os.environ.get("PATH", os.defpath)}
        finished = await run(
            ["git", "--no-pager", *arguments],
            folder=self.work_tree,
            environment={**_ENVIRONMENT, **path, **values, **environment},
            timeout_seconds=seconds,
            max_output_bytes=max_bytes,
            input_text=stdin,
        )
        if finished.status not in accepted and not finished.is_killed:
            why = finished.errors.strip() or f"it ended with the status {finished.status}"
            raise ToolFailed(f"git {arguments[0]} failed: {why}")
        return finished.output

    def unlock(self) -> None:
        """Remove the locks of a git that was killed. Call it while nothing else runs here."""
        for path in (*self.git_dir.glob("*.lock"), *(self.git_dir / "refs").rglob("*.lock")):
            path.unlink(missing_ok=True)


# The files of a tree that git records: all but what the rules of its first commit leave out. Rules
# that a task writes into the tree hide nothing, so that no file acts on tests unseen.

# Caches of programs, left out where the repository's own rules say nothing else.
_CACHES = "__pycache__/\n*.pyc\n.*_cache/\nnode_modules/\n.venv/\n.coverage\n"
_MAX_NAMES_BYTES = 200_000_000


async def record(git: Git, base: str) -> None:
    """Have the index name the files as they are. Raises ToolFailed."""
    rules = await _rules(git, base)
    await git("add", "--update", "--", ".")
    quoted = ("-c", "core.quotePath=true")  # a name need not be UTF-8
    new = await git(*quoted, "ls-files", "--others", rules, max_bytes=_MAX_NAMES_BYTES)
    if len(new) >= _MAX_NAMES_BYTES:
        raise ToolFailed(
            "the names of the tree's files are too long", remedy="Leave out what can be made again"
        )
    if new:
        await git("update-index", "--add", "--replace", "--remove", "--stdin", stdin=new)


async def left_out(git: Git, base: str) -> list[str]:
    """The files and folders that are not recorded, by path; a folder ends with /."""
    options = ("--others", "--ignored", "--directory", "--no-empty-directory", "-z", await _rules(git, base))
    return sorted(filter(None, (await git("ls-files", *options)).split("\0")))


async def _rules(git: Git, base: str) -> str:
    """The option of git that names the rules of a commit, which are written at the first use."""
    place = git.git_dir / "info" / "rules"
    if not place.exists():
        files = ("--", ":(glob)**/.gitignore")
        listing = await git("grep", "-a", "-z", "--full-name", "-e", "", base, *files, accepted=(0, 1))
        lines = [line.removeprefix(f"{base}:").partition("\0") for line in listing.split("\n") if line]
        lines.sort(key=lambda line: line[0].count("/"))  # rules of folders further down win
        rules = [_from_root(PurePosixPath(path).parent, rule) for path, _, rule in lines]
        draft = place.with_suffix(".draft")
        draft.write_text("\n".join([_CACHES, *rules]) + "\n")
        draft.replace(place)
    return f"--exclude-from={place}"


def _from_root(folder: PurePosixPath, rule: str) -> str:
    """A rule of a folder's .gitignore, as one at the root says it."""
    rule = rule.removeprefix("\ufeff")
    if folder == PurePosixPath() or rule.startswith("#") or not rule.strip():
        return rule
    negation = "!" if rule.startswith("!") else ""
    pattern = rule.removeprefix("!")
    is_anchored = "/" in pattern.rstrip()[:-1]
    place = re.sub(r"([\\*?\[\]])", r"\\\1", folder.as_posix())
    return f"{negation}/{place}/{'' if is_anchored else '**/'}{pattern.removeprefix('/')}"


# Locks between the processes of a machine

_LOOK_SECONDS = 0.05


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None]:
    """Hold a lock, by a file that is made, against other processes; it ends with the process that has it."""
    with path.open("w") as file:
        while not _is_locked(file.fileno()):  # noqa: ASYNC110 - another process says no event
            await asyncio.sleep(_LOOK_SECONDS)
        yield


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

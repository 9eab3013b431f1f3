"""Folders that programs may have filled, however deep: how they are removed, and those of one process."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_folder(folder: Path) -> None:
    """Remove a folder, however deep it is, also where programs have taken the rights to; follows no link.

    Folders within are moved up before they are emptied: no path gets long, and nothing recurses, as
    `shutil.rmtree` does for each level. It removes all that it can. Raises OSError where something stays.
    """
    if folder.is_symlink():
        raise NotADirectoryError(f"{folder} is a link, which may lead anywhere")
    folder.chmod(0o700)
    before: list[str] = []
    while inner := sorted(os.listdir(folder)):
        problem: OSError | None = None
        fd = os.open(folder, _FOLDER)
        try:
            for name in inner:
                try:
                    _empty_or_unlink(name, fd)
                except FileNotFoundError:  # another process was faster
                    continue
                except OSError as error:
                    problem = error
        finally:
            os.close(fd)
        if problem is not None and inner == before:  # nothing went, and nothing was moved
            raise problem
        before = inner
    folder.rmdir()


def _empty_or_unlink(name: str, top: int) -> None:
    """Remove a file, or a folder whose own folders are moved beside it."""
    if not is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    open_up(name, top)
    folder = os.open(name, _FOLDER, dir_fd=top)
    try:
        for inner in os.listdir(folder):
            with suppress(OSError):  # that of the folder, which is not empty then, is raised
                if is_folder(inner, folder):
                    open_up(inner, folder)
                    os.rename(inner, f".{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def is_folder(name: str, folder: int) -> bool:
    """Whether a name in an open folder is a folder, and no link to one."""
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def open_up(name: str, folder: int) -> None:
    """Take the rights to a folder in an open one that are needed to move it and its contents."""
    if is_folder(name, folder):
        os.chmod(name, 0o700, dir_fd=folder)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder for the block, which is removed at its end as far as that can be."""
    folder = Path(mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        with suppress(OSError):
            remove_folder(folder)


@contextmanager
def locked_folder(parent: Path, mark: str) -> Iterator[tuple[Path, list[Path]]]:
    """A folder of this process below `parent`, and those of killed processes, which are removed.

    Its name begins with `mark`. It is removed at the end, with folders above it that it was made with.
    Raises OSError.
    """
    killed: list[Path] = []
    above = next(path for path in parent.parents if path.exists())
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{mark}*"):
        with ExitStack() as stack:
            if _try_lock(left, stack):
                remove_folder(left)
                killed.append(left)
    own_id = secrets.token_hex(4)
    draft = parent / f"new-{own_id}"  # nobody removes it before it is locked
    draft.mkdir(mode=0o700, parents=True)
    with ExitStack() as stack:
        _try_lock(draft, stack)
        folder = draft.rename(parent / f"{mark}{own_id}")
        try:
            yield folder, killed
        finally:
            remove_folder(folder)
            with suppress(OSError):  # another process has its folder there
                for path in (parent, *parent.parents):
                    if path == above:
                        break
                    path.rmdir()


def _try_lock(folder: Path, stack: ExitStack) -> bool:
    """Lock a folder for as long as this process lives; False if another process has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

"""The files of a skill's folder: read without following links, bounded, digested, and copied by digest."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from meshwright.core.errors import ConfigError
from meshwright.core.folders import remove_folder

MAX_FILES = 1_000
MAX_BYTES = 20_000_000
_MAX_PATH_CHARS = 300
_DIGEST_CHARS = 12
_SKIPPED = frozenset({".git", "__pycache__", "node_modules", ".venv", ".DS_Store"})
# Non-blocking, because to open a pipe would wait for its writer.
_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_DRAFT = ".draft-"
_KEPT_SECONDS = 7 * 86_400.0


class SkillFile(NamedTuple):
    """The content of a file, and whether it is a program."""

    data: bytes
    is_program: bool


Stamp = tuple[tuple[str, int, int], ...]
"""Path, time of change and size of each file: where they are as before, nothing is read again."""


def read_files(folder: Path) -> dict[str, SkillFile]:
    """The files of a folder by path, in a fixed order.

    Raises ConfigError for links, devices and pipes, names that are no text, and more than a skill may hold.
    """
    files: dict[str, SkillFile] = {}
    room = MAX_BYTES
    for path, name, descriptor in _walk(folder):
        with _opened(folder, path, name, descriptor) as file:
            data = file.read(room + 1)
            is_program = bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR)
        room -= len(data)
        if room < 0:
            problem = f"the skill has more than {MAX_BYTES:,} bytes"
            raise ConfigError(problem, path=str(folder), remedy="Keep large data outside of the skill")
        files[path] = SkillFile(data, is_program)
    return dict(sorted(files.items()))


def folder_stamp(folder: Path) -> Stamp:
    """The stamp of a folder; empty for one that cannot be read, which reading it explains."""
    sizes: list[tuple[str, int, int]] = []
    with suppress(ConfigError, OSError):
        for path, name, descriptor in _walk(folder):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            sizes.append((path, status.st_mtime_ns, status.st_size))
    return tuple(sorted(sizes))


def hash_files(files: Mapping[str, SkillFile]) -> str:
    """A digest over names, modes and contents of files, 12 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    for path, file in files.items():
        digest.update(f"{len(path.encode())} {path} {file.is_program:d} {len(file.data)}\n".encode())
        digest.update(file.data)
    return digest.hexdigest()[:_DIGEST_CHARS]


def copy_files(files: Mapping[str, SkillFile], place: Path) -> None:
    """Write files to a folder that does not change later; whole or not at all. One that is there stays.

    Raises ConfigError where the folder cannot be written.
    """
    try:
        if place.is_dir():
            os.utime(place)  # it is in use
            return
        draft = place.with_name(f"{_DRAFT}{place.name}.{os.getpid()}")
        if draft.exists():  # of a process with this id that was killed
            remove_folder(draft)
        draft.mkdir(mode=0o700, parents=True)
        for path, file in files.items():
            target = draft / path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.write_bytes(file.data)
            target.chmod(0o500 if file.is_program else 0o400)
        draft.rename(place)
    except OSError as error:
        if place.is_dir():  # another process was faster
            return
        problem = f"the skill cannot be copied: {error.strerror}"
        raise ConfigError(problem, path=str(place), remedy="Make the data folder writable") from error


def remove_old(copies: Path) -> None:
    """Remove copies that no process has used for a week."""
    for folder in copies.iterdir() if copies.is_dir() else ():
        with suppress(OSError):  # another process was faster
            if time.time() - folder.stat().st_mtime > _KEPT_SECONDS:
                remove_folder(folder)


def _walk(folder: Path) -> Iterator[tuple[str, str, int]]:
    """The path and the name of each file, and the descriptor of its folder."""
    count = 0
    for where, folders, names, descriptor in os.fwalk(folder, follow_symlinks=False):
        inside = Path(where).relative_to(folder)
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in folders:
            _check_name(folder, inside / name)
            if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                raise _link(folder, inside / name)
        for name in sorted(name for name in names if name not in _SKIPPED):
            path = inside / name
            _check_name(folder, path)
            if (count := count + 1) > MAX_FILES:
                problem = f"the skill has more than {MAX_FILES:,} files"
                raise ConfigError(problem, path=str(folder), remedy="Keep data outside of the skill")
            yield path.as_posix(), name, descriptor


def _check_name(folder: Path, path: Path) -> None:
    text = path.as_posix()
    if not text.isprintable() or len(text) > _MAX_PATH_CHARS:
        problem = f"the skill has a file with the name {text[:80]!r}"
        remedy = f"Name it in at most {_MAX_PATH_CHARS} printable characters"
        raise ConfigError(problem, path=str(folder), remedy=remedy)


def _link(folder: Path, path: Path) -> ConfigError:
    problem = f"{path.as_posix()} is a link, and a skill has only files of its own folder"
    return ConfigError(problem, path=str(folder / path), remedy="Put the file itself in its place")


def _opened(folder: Path, path: str, name: str, descriptor: int) -> BufferedReader:
    try:
        opened = os.open(name, _NO_LINK, dir_fd=descriptor)
    except OSError as error:
        if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
            raise _link(folder, Path(path)) from error
        problem = f"{path} cannot be read: {error.strerror}"
        raise ConfigError(problem, path=str(folder / path), remedy="Make it readable") from error
    file = os.fdopen(opened, "rb")
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        file.close()
        raise ConfigError(f"{path} is not a file", path=str(folder / path), remedy="Remove it")
    return file

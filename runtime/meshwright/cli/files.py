"""The files of a task's outcome on the command line: listed, and saved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.output import printable
from meshwright.core.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from meshwright.client import Client
    from meshwright.core.files import TaskFile

_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_MAX_NAME_BYTES = 200


def file_line(file: Mapping[str, Any]) -> str:
    """A file in a few words: `chart.png (image/png, 12,345 bytes)`."""
    size = file.get("size")
    about = f"{size:,} bytes" if isinstance(size, int) else str(file.get("url") or "elsewhere")
    return printable(f"{file.get('name')} ({file.get('media_type')}, {about})")


def file_rows(files: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The files of an outcome, each with its number."""
    for number, file in enumerate(files, start=1):
        yield f"file {number}", file_line(file)


async def save_files(client: Client, task_id: str, files: Sequence[TaskFile], folder: Path) -> None:
    """Write the files of an outcome into a folder, and say where; what is there already stays as it is.

    Files that are elsewhere are named by their URL. Raises InvalidInput where there is none, and ConfigError
    where the folder cannot be written.
    """
    if not files:
        raise InvalidInput(f"Task {task_id} has no files", remedy=f"mesh task {task_id} shows it")
    for number, known in enumerate(files, start=1):
        file = await client.file(task_id, number)
        if file.url:
            click.echo(printable(f"{file.name} is not the mesh's to save: {known.url}"), err=True)
            continue
        try:
            click.echo(printable(str(_write(folder, file.name, file.data))))
        except OSError as error:
            raise ConfigError(
                f"{file.name} cannot be saved in {folder}: {error.strerror}",
                remedy="Name another --save folder",
            ) from error


def _write(folder: Path, name: str, data: bytes) -> Path:
    """Write a file under its name, with a number where that is taken; returns where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = folder / _safe_name(name, number)
        try:
            with path.open("xb") as file:  # neither over another file, nor through a link
                file.write(data)
        except FileExistsError:
            if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
                return path
        else:
            return path
    raise AssertionError


def _safe_name(name: str, number: int) -> str:
    """A name that is one inside any folder, on any system."""
    plain = _NOT_IN_NAMES.sub("_", name).strip(". ") or "file"
    stem, dot, kind = plain.rpartition(".")
    if not dot or len(kind.encode()) > 16:
        stem, dot, kind = plain, "", ""
    stem = stem.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
    return f"{stem}{f'-{number}' if number > 1 else ''}{dot}{kind}"

"""Where in an author's code an error comes from: not in ours, nor in a library's."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from typing import NamedTuple

_PACKAGE = str(Path(__file__).parents[1])
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class Place(NamedTuple):
    """A line of a file."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def short(self) -> str:
        """The place without the folders that say where on this machine the project lies."""
        return f"{'/'.join(Path(self.path).parts[-2:])}:{self.line}"


def author_place(error: BaseException) -> Place | None:
    """The last line of the author's code that an error passed through, if it passed through any."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((Place(path, line) for path, line, _, _ in frames if line and is_of_an_author(path)), None)


def is_of_an_author(filename: str) -> bool:
    """Whether a file is part of a project, not of Meshwright or a library."""
    return not filename.startswith(("<", _PACKAGE, *_LIBRARIES))

"""The digest of an agent's code: whether an open task began with the code that there is now."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from meshwright.agent import Agent
from meshwright.agents.binding import toolsets_of
from meshwright.tools.toolset import Toolset

_DIGEST_CHARS = 12


def code_of(agent: type[Agent]) -> str:
    """A hash of the files of an agent, its bases and its toolsets; of a package all files in its folder.

    Prompts are not in it, nor is what those files import from elsewhere: a run follows its journal with any.
    """
    digest = hashlib.sha256()
    classes = [cls for owner in (agent, *toolsets_of(agent)) for cls in owner.__mro__]
    files = {file for cls in classes if cls not in (Agent, Toolset, object) for file in _files_of(cls)}
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:_DIGEST_CHARS]


def _files_of(cls: type) -> Iterator[Path]:
    try:
        file = Path(inspect.getsourcefile(cls) or "")
    except (OSError, TypeError):  # made in an interactive session, or in C
        return
    if (file.parent / "__init__.py").is_file():
        yield from file.parent.glob("*.py")
    elif file.is_file():
        yield file

"""The git commit that a folder is at, read from its files: no git has to be installed, no process starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Checkout(NamedTuple):
    """The work tree of a git repository, and the commit that is checked out; None where it has none yet."""

    root: Path
    revision: str | None

    def name_of(self, file: Path) -> str:
        """The path of a file as `git show REVISION:PATH` takes it."""
        return (file.parent.resolve() / file.name).relative_to(self.root).as_posix()


def checkout_of(folder: Path) -> Checkout | None:
    """Returns the work tree that a folder is in; None outside of one, and where it cannot be read."""
    try:
        folder = folder.resolve()
        for root in (folder, *folder.parents):
            if (git := root / ".git").exists():
                return Checkout(root, _revision(git))
    except (OSError, ValueError):
        return None
    return None


def _revision(git: Path) -> str | None:
    if git.is_file():  # a linked work tree, or a submodule
        git = git.parent / git.read_text().removeprefix("gitdir:").strip()
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return _commit(head)
    ref = head.removeprefix("ref:").strip()
    shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
    if (shared / ref).is_file():
        return _commit((shared / ref).read_text().strip())
    packed = shared / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((_commit(line.partition(" ")[0]) for line in lines if line.endswith(f" {ref}")), None)


def _commit(text: str) -> str | None:
    return text if _COMMIT.fullmatch(text) else None

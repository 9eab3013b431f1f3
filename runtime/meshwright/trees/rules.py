"""The files of a tree that git records: all but those that the rules of its first commit leave out.

Rules that a task writes into the tree hide nothing, so that no file acts on tests unseen.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from meshwright.core.errors import ToolFailed
from meshwright.trees.git import Git

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
        await git("update-index", "--add", "--replace", "--remove", "--stdin", given=new)


async def left_out(git: Git, base: str) -> list[str]:
    """The files and folders that are not recorded, by path; a folder ends with /."""
    options = ("--others", "--ignored", "--directory", "--no-empty-directory", "-z", await _rules(git, base))
    return sorted(filter(None, (await git("ls-files", *options)).split("\0")))


async def _rules(git: Git, base: str) -> str:
    """The option of git that names the rules of a commit, which are written at the first use."""
    place = git.git_dir / "info" / "rules"
    if not place.exists():
        files = ("--", ":(glob)**/.gitignore")
        found = await git("grep", "-a", "-z", "--full-name", "-e", "", base, *files, accepted=(0, 1))
        lines = [line.removeprefix(f"{base}:").partition("\0") for line in found.split("\n") if line]
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

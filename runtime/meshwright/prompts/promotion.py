"""Commits a text as a prompt file on a new branch. Work tree, index and branches that there are stay."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from meshwright.core.errors import Conflict, PromptError
from meshwright.prompts.prompt import parse_prompt
from meshwright.prompts.repository import PromptRepository

_FILE = "100644"


class Promotion(NamedTuple):
    """A commit with one changed file, and the branch that points at it alone.

    `path` is that of the file in the repository, `remote` one that the branch may be pushed to, or "".
    """

    branch: str
    commit: str
    path: str
    is_new: bool
    remote: str


def promote(file: Path, text: str, branch: str, message: str) -> Promotion:
    """Commit a text as a prompt file, byte by byte, on top of what is checked out.

    Raises Conflict for a branch that there is and a file that has this text there, and PromptError for a text
    that is no prompt, and where git refuses.
    """
    data = text.encode()
    parse_prompt(file.stem, data, str(file))
    repository = PromptRepository(file)
    if repository.revision is None:
        remedy = "commit the project first: the branch begins at what is checked out"
        raise PromptError("the git repository has no commit yet", path=str(file), remedy=remedy)
    _check_branch(repository, branch)
    blob = repository.say("hash-object", "-w", "--stdin", given=data)
    found = repository.say("ls-tree", "-z", repository.revision, "--", repository.name)
    mode, _, before = found.partition("\t")[0].split(" ") if found else (_FILE, "", "")
    if blob == before:
        raise Conflict(
            f"{repository.name} has this text already in the commit {repository.revision[:12]}",
            remedy="there is nothing to promote: name another --version or --label",
            field="version",
        )
    mode = mode if mode.startswith("100") else _FILE
    commit = _commit(repository, f"{mode},{blob},{repository.name}", message)
    # Without a value before, git refuses a branch that another program has made meanwhile.
    repository.say("update-ref", "-m", "mesh registry promote", f"refs/heads/{branch}", commit, "")
    remotes = repository.say("remote").split()
    remote = "origin" if "origin" in remotes else next(iter(remotes), "")
    return Promotion(branch, commit, repository.name, not before, remote)


def _check_branch(repository: PromptRepository, branch: str) -> None:
    remedy = "name another by --branch"
    if repository.say("check-ref-format", "--branch", branch, remedy=remedy) != branch:  # such as @{-1}
        raise PromptError(f"{branch!r} is no name of a new branch", remedy=remedy, field="branch")
    if repository.say("for-each-ref", "--count=1", f"refs/heads/{branch}"):
        raise Conflict(f"there is a branch {branch!r} already", remedy=remedy, field="branch")


def _commit(repository: PromptRepository, entry: str, message: str) -> str:
    """The id of a commit that changes one file of what is checked out; no branch points at it yet."""
    revision = repository.revision or ""
    with TemporaryDirectory(prefix="mesh-promote-") as folder:
        index = Path(folder) / "index"
        repository.say("read-tree", revision, index=index)
        repository.say("update-index", "--add", "--cacheinfo", entry, index=index)
        tree = repository.say("write-tree", index=index)
    who = "say who commits: git config user.name NAME, and git config user.email ADDRESS"
    return repository.say("commit-tree", tree, "-p", revision, "-F", "-", given=message.encode(), remedy=who)

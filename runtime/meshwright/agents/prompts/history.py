"""Prompt files in git: the commit that is checked out, the versions of a file, and new ones on a branch.

Only `find_checkout` works without git. A program that the settings of a repository name is never run.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from meshwright.agents.prompts.front_matter import MAX_PROMPT_BYTES
from meshwright.agents.prompts.prompt import parse_prompt
from meshwright.core.errors import Conflict, NotFound, PromptError
from meshwright.core.folders import temporary_folder
from meshwright.core.ids import SHORT_DIGEST
from meshwright.core.redaction import environment_with

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Checkout(NamedTuple):
    """The work tree of a git repository, and the commit that is checked out; None where it has none yet."""

    root: Path
    revision: str | None

    def git_name(self, file: Path) -> str:
        """The path of a file as `git show REVISION:PATH` takes it."""
        return (file.parent.resolve() / file.name).relative_to(self.root).as_posix()


def find_checkout(folder: Path) -> Checkout | None:
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
        return _parse_commit(head)
    ref = head.removeprefix("ref:").strip()
    shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
    if (shared / ref).is_file():
        return _parse_commit((shared / ref).read_text().strip())
    packed = shared / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((_parse_commit(line.partition(" ")[0]) for line in lines if line.endswith(f" {ref}")), None)


def _parse_commit(text: str) -> str | None:
    return text if _COMMIT.fullmatch(text) else None


# The repository

_SECONDS = 30.0
_QUIET = (
    "--no-pager",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "log.showSignature=false",
)
# Of a git that runs us, as from a hook: they lead to its repository, whatever folder this one is in.
_OF_ANOTHER = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"),
    *("GIT_NAMESPACE", "GIT_PREFIX"),
)


class PromptRepository:
    """The repository of a prompt file, which need not be there. Raises PromptError where there is none.

    `name` is the path of the file in it, `revision` the commit that is checked out, None before the first.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        checkout = find_checkout(file.parent)
        if checkout is None:
            remedy = "put the project under git: versions of a prompt are those of its file"
            raise PromptError(f"prompt {file.stem} is in no git repository", path=str(file), remedy=remedy)
        self._root = checkout.root
        self.revision = checkout.revision
        self.name = checkout.git_name(file)

    def ask(self, *arguments: str, stdin: bytes = b"", remedy: str = "", index: Path | None = None) -> bytes:
        """Returns what git says. Raises PromptError with its words, and the remedy, where it fails."""
        own = {name for name in os.environ if name.startswith("GIT_")} - {*_OF_ANOTHER}
        environment = environment_with((*own, "EMAIL", "XDG_CONFIG_HOME"))
        environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}
        environment |= {} if index is None else {"GIT_INDEX_FILE": str(index)}
        try:
            process = subprocess.run(
                ["git", *_QUIET, *arguments],
                cwd=self._root,
                env=environment,
                input=stdin,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it took over {_SECONDS:g} seconds"
            remedy = "install git, and see that it works in this folder"
            raise PromptError(f"git cannot be run: {reason}", path=str(self._file), remedy=remedy) from error
        if process.returncode:
            reason = process.stderr.decode(errors="replace").strip().partition("\n")[0]
            remedy = remedy or "see that git log works on this file"
            raise PromptError(f"git says: {reason}", path=str(self._file), remedy=remedy)
        return process.stdout

    def say(self, *arguments: str, stdin: bytes = b"", remedy: str = "", index: Path | None = None) -> str:
        """Returns the text that git says, without the end of its last line. Raises PromptError."""
        output = self.ask(*arguments, stdin=stdin, remedy=remedy, index=index)
        return output.decode(errors="replace").rstrip("\n")


# Versions

_MAX_VERSIONS = 1_000
_ENDS = "\0\n"
_FIELDS = "%x01%H%x00%an%x00%aI%x00%s%x00"


class Version(NamedTuple):
    """One version of a prompt: `revision` is the commit that made it, empty for a file not yet committed."""

    digest: str
    revision: str
    author: str
    at: str
    subject: str
    text: str

    @property
    def name(self) -> str:
        """The beginning of the digest, by which events name the version."""
        return self.digest[:SHORT_DIGEST]


class PromptHistory:
    """The versions of one prompt file, newest first; a file that differs from the last commit is the first.

    A file that was renamed is followed, and so are up to 1,000 versions. Raises PromptError where the file is
    in no git repository, or git cannot be run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = path.stem
        self._repository = PromptRepository(path)

    @cached_property
    def versions(self) -> list[Version]:
        """All versions. Raises PromptError where there is none."""
        committed = [*self._committed()]
        now = self._now(committed[0] if committed else None)
        versions = [*([now] if now else []), *committed]
        if not versions:
            raise PromptError(
                "there is no such file, and git has none", path=str(self.path), remedy="write it"
            )
        return versions

    def find(self, prefix: str) -> Version:
        """The version whose digest or commit begins so. Raises NotFound."""
        lowered = prefix.lower()
        for version in self.versions:
            if lowered and (version.digest.startswith(lowered) or version.revision.startswith(lowered)):
                return version
        raise NotFound(
            f"Prompt {self._name} has no version {prefix!r} in git",
            remedy=f"mesh prompts log {self._name} lists those there are",
        )

    def blame(self) -> str:
        """Each line of the file with the commit, author and day that it comes from. Raises PromptError."""
        options = ("--no-textconv", "--", self._repository.name)
        return self._repository.ask("blame", "--date=short", "--abbrev=11", *options).decode(errors="replace")

    def _committed(self) -> Iterator[Version]:
        if self._repository.revision is None:
            return
        log = self._repository.say(
            *("log", "--follow", f"--max-count={_MAX_VERSIONS}", "--name-only", "-z", "--no-ext-diff"),
            *("--no-textconv", "--diff-filter=AMR", f"--format={_FIELDS}"),
            *("--", self._repository.name),
        )
        entries = [entry.split("\0", 4) for entry in log.split("\x01")[1:]]
        places = [f"{revision}:{names.strip(_ENDS)}" for revision, *_, names in entries]
        blobs = self._repository.ask("cat-file", "--batch", stdin="\n".join(places).encode())
        for revision, author, at, subject, _ in entries:
            head, _, blobs = blobs.partition(b"\n")
            size = int(head.split()[2])
            yield _version(blobs[:size], revision, author, at, subject)
            blobs = blobs[size + 1 :]

    def _now(self, last: Version | None) -> Version | None:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_PROMPT_BYTES + 1)
        except OSError:
            return None
        now = _version(data, "", "", "", "not committed")
        return None if last is not None and last.digest == now.digest else now


def _version(data: bytes, revision: str, author: str, at: str, subject: str) -> Version:
    text = data.decode(errors="replace")
    return Version(hashlib.sha256(data).hexdigest(), revision, author, at, subject, text)


# Promotion

_FILE = "100644"


class Promotion(NamedTuple):
    """A commit with one changed file, and the branch that points at it alone.

    `path` is the file's in the repository; `remote` can take a push of the branch, or is "".
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
    blob = repository.say("hash-object", "-w", "--stdin", stdin=data)
    listing = repository.say("ls-tree", "-z", repository.revision, "--", repository.name)
    mode, _, before = listing.partition("\t")[0].split(" ") if listing else (_FILE, "", "")
    if blob == before:
        raise Conflict(
            f"{repository.name} has this text already in the commit {repository.revision[:12]}",
            remedy="there is nothing to promote: name another --version or --label",
            field="version",
        )
    mode = mode if mode.startswith("100") else _FILE
    commit = _commit_file(repository, f"{mode},{blob},{repository.name}", message)
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


def _commit_file(repository: PromptRepository, entry: str, message: str) -> str:
    """The id of a commit that changes one file of what is checked out; no branch points at it yet."""
    revision = repository.revision or ""
    with temporary_folder("mesh-promote-") as folder:
        index = folder / "index"
        repository.say("read-tree", revision, index=index)
        repository.say("update-index", "--add", "--cacheinfo", entry, index=index)
        tree = repository.say("write-tree", index=index)
    who = "say who commits: git config user.name NAME, and git config user.email ADDRESS"
    return repository.say("commit-tree", tree, "-p", revision, "-F", "-", stdin=message.encode(), remedy=who)

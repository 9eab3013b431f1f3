"""The versions of a prompt file in the git repository that it lies in. Needs git; changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from meshwright.core.errors import NotFound, PromptError
from meshwright.prompts.prompt import MAX_PROMPT_BYTES, SHORT_DIGEST
from meshwright.prompts.repository import PromptRepository

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


class History:
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
        found = [*([now] if now else []), *committed]
        if not found:
            raise PromptError(
                "there is no such file, and git has none", path=str(self.path), remedy="write it"
            )
        return found

    def find(self, named: str) -> Version:
        """The version whose digest or commit begins so. Raises NotFound."""
        wanted = named.lower()
        for version in self.versions:
            if wanted and (version.digest.startswith(wanted) or version.revision.startswith(wanted)):
                return version
        raise NotFound(
            f"Prompt {self._name} has no version {named!r} in git",
            remedy=f"mesh prompts log {self._name} lists those there are",
        )

    def blame(self) -> str:
        """Each line of the file with the commit, author and day that it comes from. Raises PromptError."""
        named = ("--no-textconv", "--", self._repository.name)
        return self._repository.ask("blame", "--date=short", "--abbrev=11", *named).decode(errors="replace")

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
        found = self._repository.ask("cat-file", "--batch", given="\n".join(places).encode())
        for revision, author, at, subject, _ in entries:
            head, _, found = found.partition(b"\n")
            size = int(head.split()[2])
            yield _version(found[:size], revision, author, at, subject)
            found = found[size + 1 :]

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

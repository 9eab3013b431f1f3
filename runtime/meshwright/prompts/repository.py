"""The git repository that a prompt file lies in. Needs git; a program that its settings name is never run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from meshwright.core.errors import PromptError
from meshwright.core.programs import environment_with
from meshwright.prompts.revision import checkout_of

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
        checkout = checkout_of(file.parent)
        if checkout is None:
            remedy = "put the project under git: versions of a prompt are those of its file"
            raise PromptError(f"prompt {file.stem} is in no git repository", path=str(file), remedy=remedy)
        self._root = checkout.root
        self.revision = checkout.revision
        self.name = checkout.name_of(file)

    def ask(self, *arguments: str, given: bytes = b"", remedy: str = "", index: Path | None = None) -> bytes:
        """Returns what git says. Raises PromptError with its words, and the remedy, where it fails."""
        own = {name for name in os.environ if name.startswith("GIT_")} - {*_OF_ANOTHER}
        environment = environment_with((*own, "EMAIL", "XDG_CONFIG_HOME"))
        environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}
        environment |= {} if index is None else {"GIT_INDEX_FILE": str(index)}
        try:
            done = subprocess.run(
                ["git", *_QUIET, *arguments],
                cwd=self._root,
                env=environment,
                input=given,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it took over {_SECONDS:g} seconds"
            remedy = "install git, and see that it works in this folder"
            raise PromptError(f"git cannot be run: {reason}", path=str(self._file), remedy=remedy) from error
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            remedy = remedy or "see that git log works on this file"
            raise PromptError(f"git says: {reason}", path=str(self._file), remedy=remedy)
        return done.stdout

    def say(self, *arguments: str, given: bytes = b"", remedy: str = "", index: Path | None = None) -> str:
        """Returns the text that git says, without the end of its last line. Raises PromptError."""
        said = self.ask(*arguments, given=given, remedy=remedy, index=index)
        return said.decode(errors="replace").rstrip("\n")

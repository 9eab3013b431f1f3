"""The command line: `mesh`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from meshwright.agents.agent import Agent


def run_mesh(*agents: type[Agent]) -> NoReturn:
    """Run a mesh of the agents that the started file defines, or of those given, as `mesh up` does.

    It is the last line of a program that is one file of agents, `python agent.py`:

        if __name__ == "__main__":
            run_mesh()

    The options of the program are those of `mesh up`. The present folder is the project: its `mesh.toml`
    counts, and its data are in `.mesh` there, where `mesh ask` and other commands find the mesh. Ends the
    process, with the exit status of `mesh up`.
    """
    sys.exit(main(["up", *sys.argv[1:]], agents))


def main(arguments: Sequence[str] | None = None, agents: Sequence[type[Agent]] | None = None) -> int:
    """Run `mesh` with the arguments of this process, or with those given, and return its exit status.

    `agents` take the place of those of the project; none at all means those of the started file.
    """
    from meshwright.cli.app import run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of a terminal or a file that is not UTF-8
    try:
        return run(arguments, agents)
    finally:
        try:
            sys.stderr.flush()
        except OSError:  # its reader has gone, which is no failure of the command
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

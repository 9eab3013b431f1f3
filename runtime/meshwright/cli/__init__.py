"""The command line: `mesh`."""

import os
import sys
from io import TextIOWrapper


def main() -> int:
    """Run `mesh` with the arguments of this process, and return its exit status."""
    from meshwright.cli.app import run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of a terminal or a file that is not UTF-8
    try:
        return run()
    finally:
        try:
            sys.stderr.flush()
        except OSError:  # its reader has gone, which is no failure of the command
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

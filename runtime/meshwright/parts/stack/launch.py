"""Becomes another program, which the kernel kills when the process that started it ends, however that ends.

    python -I -S launch.py PARENT PROGRAM [ARGUMENT ...]

A file of its own, run by its path: it takes a few milliseconds, and nothing of Meshwright is loaded.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Replace this process by the command. `parent` is the id of the process that must live."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the program says what it does then
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(f"the process {parent} that wanted {command[0]} has ended")
    os.umask(0o077)  # what it writes is for this user alone
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

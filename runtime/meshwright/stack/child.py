"""Starting a program of the stack so that it never outlives this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from meshwright.stack.services import Service

LAUNCH = Path(__file__).with_name("launch.py")


def command_of(service: Service) -> list[str]:
    """The arguments that start its program as a child of this process, to be killed when this process ends.

    Start it from the main thread: the kernel takes the end of the starting thread for that of its process.
    """
    return [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), *service.argv]


def write_files(service: Service) -> None:
    """Write what its program reads, for this user alone."""
    for path, text in service.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        draft.replace(path)

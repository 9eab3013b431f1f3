"""Folders as programs make them."""

import os
from pathlib import Path


def nested(folder: Path, levels: int) -> None:
    """Make folders in one another, of which the innermost has a file."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("folder", dir_fd=fd)
        outer, fd = fd, os.open("folder", os.O_RDONLY, dir_fd=fd)
        os.close(outer)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)

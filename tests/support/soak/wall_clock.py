"""A wall clock that is set forward and back while programs run: a library in them adds what a file says.

clock = WallClock(tmp_path)
subprocess.Popen(..., env=os.environ | clock.environment)
clock.jump(3600)                    # by so many seconds, at once
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
JUMPS_SECONDS = (-10, -3, 3, 60, 3_600)
"""Back by little: all that is due at a time waits for that time again."""
_SECONDS = struct.Struct("q")


class WallClock:
    """The wall clock of programs that are started with its environment. Seconds last as long as ever."""

    def __init__(self, folder: Path) -> None:
        self._ahead = 0
        self._file = folder / "wall-clock"
        self._file.write_bytes(_SECONDS.pack(0))
        with self._file.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _SECONDS.size)
        self._library = self._file.with_suffix(".so")
        compiler = shutil.which("cc")
        self.is_there = compiler is not None
        """Whether there is a compiler for the library: without one the clock stays as it is."""
        if compiler is not None:
            subprocess.run(
                [compiler, "-O2", "-shared", "-fPIC", "-o", self._library, SOURCE, "-ldl"], check=True
            )

    @property
    def environment(self) -> dict[str, str]:
        """The variables of programs that have this clock."""
        return {"LD_PRELOAD": str(self._library), "WALL_CLOCK": str(self._file)} if self.is_there else {}

    def jump(self, seconds: int) -> None:
        """Set it forward, or back."""
        self._ahead += seconds
        self._shared[:] = _SECONDS.pack(self._ahead)

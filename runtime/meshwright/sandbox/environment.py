"""The programs, files and variables that every box has."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SYSTEM_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
SYSTEM_FILES = tuple(
    Path("/etc", name)
    for name in (
        *(
            "alternatives",
            "ca-certificates",
            "debian_version",
            "fonts",
            "ld.so.cache",
            "ld.so.conf",
            "ld.so.conf.d",
            "localtime",
        ),
        *(
            "mime.types",
            "pki/ca-trust",
            "pki/tls/certs",
            "pki/tls/openssl.cnf",
            "ssl/certs",
            "ssl/openssl.cnf",
        ),
        *("terminfo", "timezone", "protocols", "services"),
    )
)
"""The files of /etc that programs read; none of them holds a secret."""
_PATH = (
    *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
    "/usr/local/go/bin",  # where Go's own archive is unpacked
)
_HOME = "home = "


class Interpreter:
    """A Python that can run in a box: its program, and the folder that it needs where that is not /usr."""

    def __init__(self, program: Path) -> None:
        self.program = program.resolve()
        prefix = self.program.parents[1]
        self.folders: Sequence[Path] = () if prefix.is_relative_to("/usr") else (prefix,)

    @classmethod
    def own(cls) -> Interpreter:
        """That of the mesh."""
        return cls(Path(sys.executable))

    def command(self, source: str) -> list[str]:
        """The command that runs some source, without packages and without regard to its surroundings."""
        return [str(self.program), "-I", "-S", "-c", source]


def with_bases(folders: Iterable[Path]) -> list[Path]:
    """The folders, and for each virtual environment among them the Python that it was made of."""
    readable = list[Path]()
    for folder in folders:
        readable.append(folder)
        try:
            lines = (folder / "pyvenv.cfg").read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        homes = [Path(line.removeprefix(_HOME)) for line in lines if line.startswith(_HOME)]
        readable += [home.parent for home in homes if not home.is_relative_to("/usr")]
    return readable


def environment_of(
    readable: Sequence[Path], interpreter: Interpreter, scratch: str, own: Mapping[str, str]
) -> dict[str, str]:
    """The variables of a program in a box; the call's own win.

    On PATH are first the folders `bin` that it may read, last the `bin` of the mesh's own Python.
    """
    programs = [folder / "bin" for folder in readable]
    path = [*(str(folder) for folder in programs if folder.is_dir()), *_PATH, str(interpreter.program.parent)]
    usual = {"PATH": ":".join(path), "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8"}
    return usual | {"GIT_CONFIG_NOSYSTEM": "1"} | dict(own)

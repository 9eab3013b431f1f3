"""Record `mesh demo` in a terminal and draw what it showed: `.venv/bin/python docs/images/make.py`.

The output is the program's own, colours included; left out are the steps of delegated tasks that are not in
`SHOWN`.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import sysconfig
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[2]
PICTURE = Path(__file__).with_name("demo.svg")
COLUMNS, LINES = 116, 50
SHOWN = {1}  # of the tasks that the first one delegates
NESTED = re.compile(r" {4}[a-z]")
CONTINUED = re.compile(r" {8}")
END = "All of it is kept"
STYLE = re.compile(r"\x1b\[[0-9;]*m")
OTHER_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]")
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
LEFT_OUT = "\x1b[2m    ...\x1b[0m"


def record(command: list[str]) -> list[str]:
    """Run a command in a terminal of its own, and return the lines that it wrote."""
    scripts = sysconfig.get_path("scripts")
    environment = {
        "HOME": os.environ.get("HOME", "/"),
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "TERM": "xterm-256color",
        "TTY_INTERACTIVE": "0",  # lines as they stay, without what moves
    }
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    streams = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **streams) as process:
        os.close(theirs)
        written = b"".join(iter(lambda: read(ours), b""))
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return OTHER_CONTROL.sub("", written.decode()).replace("\r", "").splitlines()


def read(terminal: int) -> bytes:
    """Read what there is; nothing at the end, which Linux tells as an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


def chosen(lines: list[str]) -> list[str]:
    """Leave out the steps of tasks that are not shown, and the commands at the end."""
    kept: list[str] = []
    task, is_shown = 0, True
    for line in lines:
        plain = STYLE.sub("", line)
        if plain.startswith(END):
            break
        if NESTED.match(plain):
            task += plain.split()[0] == "accepted"
            is_shown = task in SHOWN
        elif not CONTINUED.match(plain):
            is_shown = True
        if is_shown:
            kept.append(line)
        elif kept[-1] != LEFT_OUT:
            kept.append(LEFT_OUT)
    return kept


def draw(lines: list[str]) -> str:
    """The lines as an SVG that loads nothing."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=False, overflow="fold")
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", console.export_svg(title="", unique_id="demo"), flags=re.S)
    return drawn.replace("Fira Code, monospace", FONTS)


if __name__ == "__main__":
    PICTURE.write_text(draw(["$ mesh demo", *chosen(record(["mesh", "demo"]))]))

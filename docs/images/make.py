"""Record `mesh demo` in a terminal and draw it as it went: `.venv/bin/python docs/images/make.py`.

The output is the program's own, colours included; left out are the steps of delegated tasks that are not in
`SHOWN`. It comes as fast as it came, but for pauses that are too long, and lines that are too quick to read.
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
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[2]
PICTURE = Path(__file__).with_name("demo.svg")
COLUMNS, ROWS = 104, 28  # of what is seen at a time
SHOWN = {1}  # of the tasks that the first one delegates
NESTED = re.compile(r" {4}[a-z]")
CONTINUED = re.compile(r" {8}")
END = "All of it is kept"
STYLE = re.compile(r"\x1b\[[0-9;]*m")
OTHER_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]")
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
LEFT_OUT = "\x1b[2m    ...\x1b[0m"
LEAST_SECONDS, MOST_SECONDS, LAST_SECONDS = 0.25, 1.5, 8.0  # before a line, and behind the last one
LINE_PIXELS = 24.4  # of Rich's picture
TOP_PIXELS, SIDE_PIXELS, BOTTOM_PIXELS = 40, 8, 10
TEXT_PIXELS = f"{ROWS * LINE_PIXELS:g}"
WINDOW_PIXELS = f"{TOP_PIXELS + ROWS * LINE_PIXELS + BOTTOM_PIXELS:g}"
SVG = f"""\
<svg viewBox="0 0 {{width}} {WINDOW_PIXELS}" xmlns="http://www.w3.org/2000/svg">
    <style>
    .{{unique_id}}-matrix {{{{ font-family: {FONTS}; font-size: {{char_height}}px }}}}
    {{styles}}
    MOVES
    @media (prefers-reduced-motion: reduce) {{{{ #text, #cover {{{{ animation: none }}}} }}}}
    </style>
    <clipPath id="window"><rect y="4" width="{{terminal_width}}" height="{TEXT_PIXELS}"/></clipPath>
    <rect fill="#292929" width="{{width}}" height="{WINDOW_PIXELS}" rx="8"/>
    <circle cx="26" cy="22" r="7" fill="#ff5f57"/>
    <circle cx="48" cy="22" r="7" fill="#febc2e"/>
    <circle cx="70" cy="22" r="7" fill="#28c840"/>
    <g transform="translate({SIDE_PIXELS + 1} {TOP_PIXELS + 1})" clip-path="url(#window)">
    <g class="{{unique_id}}-matrix" id="text">
{{matrix}}
    </g>
    <rect id="cover" fill="#292929" width="{{terminal_width}}" height="{TEXT_PIXELS}"/>
    </g>
</svg>
"""
"""Rich's picture in a window: the text moves up in it, and a cover down from what is not printed yet."""


class Line(NamedTuple):
    """A line of the output, and the seconds from the start until it came."""

    text: str
    at: float = 0.0


def record(command: list[str]) -> list[Line]:
    """Run a command in a terminal of its own, and return the lines that it wrote."""
    scripts = sysconfig.get_path("scripts")
    environment = {
        "HOME": os.environ.get("HOME", "/"),
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "TERM": "xterm-256color",
        "TTY_INTERACTIVE": "0",  # lines as they stay, without what moves
    }
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    streams = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
    lines: list[Line] = []
    rest, began = b"", time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, env=environment, **streams) as process:
        os.close(theirs)
        while chunk := read(ours):
            *whole, rest = (rest + chunk).split(b"\n")
            lines += [Line(plain(line), time.monotonic() - began) for line in whole]
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return lines


def read(terminal: int) -> bytes:
    """Read what there is; nothing at the end, which Linux tells as an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


def plain(line: bytes) -> str:
    """The text of a line with its colours, and no other control."""
    return OTHER_CONTROL.sub("", line.decode()).replace("\r", "")


def chosen(lines: Sequence[Line]) -> list[Line]:
    """Leave out the steps of tasks that are not shown, and the commands at the end."""
    kept: list[Line] = []
    task, is_shown = 0, True
    for line in lines:
        text = STYLE.sub("", line.text)
        if text.startswith(END):
            break
        if NESTED.match(text):
            task += text.split()[0] == "accepted"
            is_shown = task in SHOWN
        elif not CONTINUED.match(text):
            is_shown = True
        if is_shown:
            kept.append(line)
        elif kept[-1].text != LEFT_OUT:
            kept.append(Line(LEFT_OUT, line.at))
    return kept


def draw(lines: Sequence[Line]) -> str:
    """The lines as an SVG that moves, and loads nothing."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    seconds, before, printed = 0.0, 0.0, 0
    frames: list[tuple[float, int]] = []
    for line in lines:
        rows = Text.from_ansi(line.text).wrap(console, COLUMNS, overflow="fold") or [Text()]
        for row in rows:
            console.print(row, no_wrap=True, highlight=False)
        seconds += min(max(line.at - before, LEAST_SECONDS), MOST_SECONDS) if frames else 0.0
        before, printed = line.at, printed + len(rows)
        frames.append((seconds, printed))
    drawn = console.export_svg(title="", unique_id="demo", code_format=SVG)
    drawn = re.sub(r' clip-path="url\(#demo-line-\d+\)"|<text [^>]*>\n</text>', "", drawn)
    return drawn.replace("MOVES", moves(frames))


def moves(frames: Sequence[tuple[float, int]]) -> str:
    """The animation of frames, each the seconds from the start and the rows that are printed then."""
    whole = frames[-1][0] + LAST_SECONDS

    def places(name: str, place: Callable[[int], int]) -> str:
        steps: dict[int, float] = {}
        for seconds, rows in frames:
            steps.setdefault(place(rows), seconds)
        keys = " ".join(
            f"{100 * seconds / whole:.2f}% {{ transform: translateY({rows * LINE_PIXELS:g}px) }}"
            for rows, seconds in steps.items()
        )
        last = f"translateY({place(frames[-1][1]) * LINE_PIXELS:g}px)"
        return (
            f"#{name} {{ transform: {last}; animation: {name} {whole:.1f}s step-end infinite }}\n"
            f"    @keyframes {name} {{ {keys} 100% {{ transform: {last} }} }}"
        )

    text, cover = (
        places("text", lambda rows: min(ROWS - rows, 0)),
        places("cover", lambda rows: min(rows, ROWS)),
    )
    return f"{text}\n    {cover}"


def make() -> None:
    """Record the demo, and draw it."""
    PICTURE.write_text(draw([Line("$ mesh demo"), *chosen(record(["mesh", "demo"]))]))


if __name__ == "__main__":
    make()

"""Answers in Markdown at a terminal: drawn there, as they are in a pipe, and never steering the terminal."""

from __future__ import annotations

import os
import pty
import re
from asyncio.subprocess import PIPE
from contextlib import closing
from pathlib import Path

import click

from meshwright import Agent, Capability, Run
from tests.cli.integration.test_cli_live import shown
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import MESH, mesh, start

REPORT = """\
# Report

There are **17** orders, _two_ of them `late`; see snake_case_name and the [list](https://ops.example/x).

1. Read
   - the file
   - the *log* that goes on and on, which is longer than a line of this terminal
2. Write

| Service | Note |
|---|---:|
| checkout | down since **21:40**, a \\| b, and for that long that the cell has two lines |
| web | up |

> quoted

~~~python
x = "**2**"
~~~
"""
DRAWN = """\
Report

There are 17 orders, two of them late; see snake_case_name
and the list (https://ops.example/x).

1. Read
   • the file
   • the log that goes on and on, which is longer than a
     line of this terminal
2. Write

Service   Note
────────  ──────────────────────────────────────────────────
checkout  down since 21:40, a | b, and for that long that
          the cell has two lines
web       up

│ quoted

  x = "**2**"
"""
HOSTILE = """\
# \x1b]0;owned\x07
[go](https://good.example@evil.example/x) ![p](javascript:x) **\u202eb**
\x9b1m \x1b[2J end
"""


class Writer(Agent):
    """Answers what it was asked."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return run.task.text


async def at_terminal(api: Api, *command: str, until: str) -> str:
    """What a command shows at a terminal of 60 columns, up to some words."""
    here, there = pty.openpty()
    environment = {"COLUMNS": "60", "TERM": "xterm", "NO_COLOR": ""}
    with closing(os.fdopen(here, "r+b", buffering=0)) as terminal:
        process = await start([*MESH, *command, "--url", api.url], environment, stdout=there, stderr=PIPE)
        os.close(there)
        text = await shown(terminal.fileno(), until)
        assert await process.wait() == 0
    return text.replace("\r\n", "\n")


async def test_an_answer_is_drawn_at_a_terminal_and_raw_elsewhere(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Writer) as api:
        drawn = await at_terminal(api, "ask", "writer", REPORT, until='x = "**2**"\x1b[0m')
        assert click.unstyle(drawn).strip() == DRAWN.strip()
        assert "\x1b[1m17\x1b[0m" in drawn and "\x1b[36mlate\x1b[0m" in drawn
        [task] = await api.client.tasks()
        page = await at_terminal(api, "task", task.task_id, until='x = "**2**"\x1b[0m')
        assert click.unstyle(page).rstrip().endswith(DRAWN.rstrip())
        for command in (("ask", "writer", REPORT), ("task", task.task_id)):
            raw = await at_terminal(api, *command, "--raw", until="~~~\r\n")
            piped = await mesh(*command, "--url", api.url)
            assert REPORT.strip() in raw and REPORT.strip() in piped.out


async def test_no_text_steers_the_terminal(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Writer) as api:
        text = await at_terminal(api, "ask", "writer", HOSTILE, until=" end")
    controls = set(re.findall(r"\x1b\[[0-9;]*[a-zA-Z]|[^\n -~─•│…]", text.partition("]0;owned")[2]))
    assert controls <= {f"\x1b[{code}m" for code in (0, 1, 2, 4)}, controls
    assert "go (https://evil.example/x) p (javascript:x) \\u202eb" in click.unstyle(text)

"""`mesh demo`: agents at work on real files, with nothing but this process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import textwrap
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from meshwright.cli.connect import Connection, in_process
from meshwright.cli.options import data_option
from meshwright.cli.project import trust_option
from meshwright.core.errors import ServiceFailed

if TYPE_CHECKING:
    from meshwright.core.display import Document

_FOLDER = Path(".mesh", "demo")
_MAX_KEPT = 3  # demos whose data stays
_MAX_ANSWER_LINES = 12
_QUOTE = "  | "
_SOURCES = Path(__file__).parents[1]
_MATERIAL = ("docs/writing-an-agent.md", "mesh.py")


class _Question(NamedTuple):
    """A question for one agent, and the file whose text goes with it, if any."""

    agent_id: str
    text: str
    material: Path | None = None


# A few words a line: the agents search this file too, and would find their own questions.
_SCRIPT = """
simple-agent
Summarise {material}
in three points.

architect-agent
Remember that a killed
process must lose
no task of this project.

researcher-agent
How is the score
of an agent
computed?

architect-agent
Find out what
happens to running
work when the
process is
killed.

api-coder
Read {sources}sql/database.py:
what if another
process holds
the folder?
"""
_DELEGATED = 3  # the place of the question that one agent passes on to another
_CLERK_TEXT = """
Summarise: an accepted task
is on disk. Whatever ends,
it has one outcome.
"""
_CLERK = "from meshwright.cli.demo_clerk import main; main()"


@click.command()
@data_option
@trust_option
def demo(data: Path | None) -> int:
    """Show agents at work; needs no key and no network.

    A mesh in this process, with a fresh data folder, gives its agents real tasks over Meshwright's own files;
    one of them asks another. The process of the last one gets SIGKILL in the middle of its work, and its
    agent asks you. The offline model answers, whatever keys are set.
    """
    return asyncio.run(_run(data or _fresh_folder()))


async def _run(data: Path) -> int:
    from meshwright.cli.demo_clerk import demo_agents, demo_settings

    workspace, questions = _questions()
    click.echo("Five agents on real files; no key, no network, no service.")
    settings = demo_settings(data, tools={"workspace": workspace})
    options, agents = f" --data {data}", demo_agents()
    async with in_process(settings, "work", options, agents=agents) as mesh:
        click.echo(f"{mesh.about}\nA real model answers once LITELLM_BASE_URL or a provider's key is set.")
        outcomes = [await _show(mesh, number, question) for number, question in enumerate(questions, start=1)]
    _head(len(questions) + 1, "clerk", text := " ".join(_CLERK_TEXT.split()))
    task_id = await _begin_and_kill(data, text)
    async with in_process(settings, "work", options, agents=agents) as mesh:
        outcomes.append(await _go_on(mesh, task_id))
        await _sum_up(mesh, outcomes)
    return 0 if all(outcome["success"] for outcome in outcomes) else 1


async def _begin_and_kill(data: Path, text: str) -> str:
    """Have another process begin a task and end by SIGKILL; returns the task's id."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _CLERK, str(data), text),
        env=os.environ | {"MESH_TRUST": "1"},  # this process was allowed to run the code of the folder
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise ServiceFailed(f"The process of the clerk ended with {process.returncode}", remedy="try again")
    click.echo(f"Process {process.pid} began it and has got SIGKILL, in the middle. This one goes on:")
    return out.decode().strip()


async def _go_on(mesh: Connection, task_id: str) -> Document:
    from meshwright.cli.demo_clerk import CALLED
    from meshwright.cli.timeline import Answering, draw, drawing

    has_person = sys.stdin.isatty() and sys.stderr.isatty()
    if not has_person:
        click.echo("It asks a person; there is no terminal to ask at, so the demo says yes.")
    before = await mesh.client.events(task_id=task_id, event_type=CALLED)
    with drawing(stream=sys.stdout) as canvas:
        if has_person:
            answering = Answering(mesh, canvas)
            try:
                outcome = await draw(mesh.client, task_id, canvas, answering)
            finally:
                await answering.close()
        else:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_say_yes(mesh, task_id))
                outcome = await draw(mesh.client, task_id, canvas)
    calls = await mesh.client.events(task_id=task_id, event_type=CALLED)
    click.echo(quoted(_text_of(outcome), _width()))
    click.echo(f"{len(before)} call of a model before SIGKILL, {len(calls) - len(before)} repeated after it.")
    return outcome


async def _say_yes(mesh: Connection, task_id: str) -> None:
    """Answer in the place of the person, where the demo has no terminal to ask at."""
    async with aclosing(mesh.client.follow(task_id)) as events:
        async for event in events:
            if event.event_type == "task.waiting":
                await mesh.client.answer(task_id, event.fields["key"], {"approve": True})


def _questions() -> tuple[Path, list[_Question]]:
    """The folder that the agents see, and what they are asked: about this checkout, or about the package."""
    here = Path.cwd()
    workspace, sources = (
        (here, f"{_SOURCES.relative_to(here)}/") if _SOURCES.is_relative_to(here) else (_SOURCES, "")
    )
    names = [name for name in _MATERIAL if (workspace / name).is_file()]
    questions = []
    for entry in _SCRIPT.strip().split("\n\n"):
        agent_id, _, text = entry.partition("\n")
        material = workspace / names[0] if "{material}" in text else None
        text = " ".join(text.split()).format(sources=sources, material=names[0])
        questions.append(_Question(agent_id, text, material))
    return workspace, questions


def _fresh_folder() -> Path:
    from meshwright.sql.folder import make_private

    make_private(_FOLDER.parent)
    _FOLDER.mkdir(mode=0o700, exist_ok=True)
    for old in sorted(_FOLDER.iterdir(), key=lambda path: path.stat().st_mtime)[: -_MAX_KEPT + 1]:
        shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="", dir=_FOLDER))


async def _show(mesh: Connection, number: int, question: _Question) -> Document:
    from meshwright.cli.timeline import draw, drawing

    _head(number, question.agent_id, question.text)
    text = f"{question.text}\n\n{question.material.read_text()}" if question.material else question.text
    receipt = await mesh.client.submit(text, agent_id=question.agent_id)
    with drawing(stream=sys.stdout) as canvas:
        outcome = await draw(mesh.client, receipt.task_id, canvas)
    click.echo(quoted(_text_of(outcome), _width()))
    return outcome


def _head(number: int, agent_id: str, text: str) -> None:
    click.secho(f"\n{number}. {agent_id}: {text}", bold=True)


def _text_of(outcome: Document) -> str:
    return (outcome.get("result") or {}).get("text") or ""


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def quoted(text: str, width: int) -> str:
    """An answer, or its beginning, in lines of at most so many characters, each marked as quoted."""
    from meshwright.cli.output import for_terminal

    lines = for_terminal(text).strip().splitlines()
    more = [f"... and {len(lines) - _MAX_ANSWER_LINES} lines more"] if len(lines) > _MAX_ANSWER_LINES else []
    shown = [*lines[:_MAX_ANSWER_LINES], *more]
    return "\n".join(
        f"{_QUOTE}{part}".rstrip() for line in shown for part in _wrapped(line, width - len(_QUOTE))
    )


def _wrapped(line: str, width: int) -> list[str]:
    """A line in parts that fit; those that follow are indented as it is."""
    indent = " " * (len(line) - len(line.lstrip(" -*")))
    return textwrap.wrap(
        line,
        max(width, 20),
        subsequent_indent=indent[:8],
        expand_tabs=False,
        replace_whitespace=False,
        break_on_hyphens=False,
    ) or [""]


async def _sum_up(mesh: Connection, outcomes: list[Document]) -> None:
    from meshwright.core.display import dollars

    program, delegated = _program(), outcomes[_DELEGATED]["task_id"]
    tasks = await mesh.client.tasks(limit=100)
    costs = [outcome["cost_usd"] for outcome in outcomes]
    cost = dollars(None if None in costs else sum(map(Decimal, costs)))
    click.echo(
        f"""
{len(tasks)} tasks, {await mesh.client.last_seq()} events, {cost}. All of it is kept in {mesh.where}:
  {program} tasks{mesh.options}
  {program} task {delegated}{mesh.options}
  {program} events --task {delegated}{mesh.options}
Your turn:
  {program} ask researcher-agent "Where are settings read from?"
  {program} up"""
    )


def _program() -> str:
    called = Path(sys.argv[0])
    if called.name != "mesh" or shutil.which("mesh") == str(called.absolute()):
        return "mesh"
    return str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)

"""`mesh demo`: agents fix a failing test, in a process that is killed in the middle and one that goes on.

The job is a repository with a failing test, and a script in the place of its models.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from meshwright.agents.sandbox.choice import ChosenSandbox
from meshwright.agents.sandbox.settings import SandboxSettings
from meshwright.agents.shipped import shipped_agents
from meshwright.cli.batches import show_tree
from meshwright.console.connect import Connection, in_process
from meshwright.console.options import data_option
from meshwright.console.output import document
from meshwright.console.project import trust_option
from meshwright.console.timeline import Answering, NoAnswerError, draw, drawing, follow_task, print_answer
from meshwright.core.display import Document
from meshwright.core.errors import ConfigError, ServiceFailed, ToolFailed
from meshwright.core.events import Event
from meshwright.core.folders import remove_folder
from meshwright.core.messages import Usage
from meshwright.core.model_events import ModelCalled
from meshwright.core.schema import takes_approval
from meshwright.core.settings import Settings, load_settings
from meshwright.core.step_events import ToolCalled
from meshwright.core.task_events import TaskWaiting
from meshwright.engine.sql.folder import make_private
from meshwright.models.port import ModelReply, ModelRequest, OnDelta, ToolCall

_FOLDER = Path(".mesh", "demo")
_MAX_KEPT = 3  # demos whose data stays
_MAX_EVENTS = 1_000
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
_REQUEST = "The discount is taken off in cents, not in percent. Find out why, and correct it."
_ENDED = frozenset({"task.succeeded", "task.failed", "task.timed_out", "task.cancelled"})
_CHANGING = frozenset({"edit", "write"})
_REPOSITORY = "demo"
_TOKEN_CHARS = 4
_FILES = {
    "prices.py": '''"""Prices of a small shop, in cents."""


def total(prices, discount=0):
    """The sum of the prices, less a discount in percent."""
    return sum(prices) - discount
''',
    "test_prices.py": """import unittest

from prices import total


class Totals(unittest.TestCase):
    def test_a_sum_has_no_discount(self):
        self.assertEqual(total([1000, 500]), 1500)

    def test_ten_percent_are_taken_off(self):
        self.assertEqual(total([1000, 500], discount=10), 1350)
""",
}
_GIT = ("git", "-c", "user.name=Demo", "-c", "user.email=demo@localhost")
_GIT_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}
_Replies = Sequence[str | ToolCall]


@click.command()
@click.option(
    "--model", default="", help="A model or a group of models that does it; by default a script plays it."
)
@data_option
@trust_option
def demo(model: str, data: Path | None) -> int:
    """Show agents fix a failing test; needs no key and no network.

    A mesh in this process, with a fresh data folder and a fresh repository: project-manager plans, api-coder
    edits a copy, qa-tester runs its tests in the sandbox. The first process gets SIGKILL in the middle. You
    see the change and decide whether it is committed. Without --model a script plays the models, whatever
    keys are set; agents, tools, sandbox, tests and git are real.
    """
    return asyncio.run(_run(data or _fresh_folder(), model))


async def _run(data: Path, model: str) -> int:
    repository = _make_repository(data)
    box = await _choose_box(data, model)
    click.echo(f"A repository with a failing test: {repository}")
    player = f"the model {model}" if model else "a script in the place of models (mesh demo --model NAME)"
    click.echo(f"Played by {player}; the rest is real. Sandbox: {box}.")
    click.secho(f"\nproject-manager: {_REQUEST}", bold=True)
    if model:
        async with _demo_mesh(data, model, box):  # a wrong name shows at once
            pass
    pid, task_id = await _begin_and_kill(data, model, box)
    click.echo(f"Process {pid} began it and has got SIGKILL, in the middle. This one goes on:")
    async with _demo_mesh(data, model, box) as mesh:
        outcome = await _go_on(mesh, task_id)
        await _show_change(mesh, task_id)
        await _show_costs(mesh, task_id)
    return 0 if outcome["success"] else 1


async def _go_on(mesh: Connection, task_id: str) -> Document:
    has_person = sys.stdin.isatty() and sys.stderr.isatty()
    if not has_person:
        click.echo("It asks a person; there is no terminal to ask at, so the demo says yes.")
    before = await mesh.client.last_seq()
    with drawing(stream=sys.stdout) as canvas:
        if has_person:
            try:
                outcome = await follow_task(mesh, task_id, canvas, Answering(mesh, canvas))
            except NoAnswerError:
                raise click.ClickException(
                    "the demo ends at its question; mesh demo begins another"
                ) from None
        else:
            async with asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(_say_yes(mesh))
                outcome = await draw(mesh.client, task_id, canvas)
                answering.cancel()
    click.echo()
    print_answer(outcome, as_json=False)
    calls = [
        event
        for event_type in (ModelCalled.event_type, ToolCalled.event_type)
        for event in await mesh.client.events(event_type=event_type, limit=_MAX_EVENTS)
    ]
    first = sum((event.seq or 0) <= before for event in calls)
    click.echo(
        f"{first} calls of models and tools had ended before SIGKILL, {len(calls) - first} after it; "
        f"{_repeated(calls)} were repeated."
    )
    return outcome


async def _say_yes(mesh: Connection) -> None:
    """Answer in the place of the person, where the demo has no terminal to ask at."""
    async with aclosing(mesh.client.stream(after_seq=0, event_type="task.waiting")) as events:
        async for event in events:
            waiting = TaskWaiting.from_payload(event.payload)
            if event.task_id and waiting.kind == "person":
                is_decision = takes_approval(waiting.answer_schema)
                answer = {"approve": True} if is_decision else "Decide as you think best."
                await mesh.client.answer(event.task_id, answer, key=waiting.key)


async def _show_change(mesh: Connection, task_id: str) -> None:
    change: Document = await mesh.client.call("GET", f"/trees/{task_id}/diff")
    click.secho("\nThe change:", bold=True)
    for line in change["diff"].splitlines():
        click.secho(f"  {line}", fg=_COLOURS.get(line[:1]))


async def _show_costs(mesh: Connection, task_id: str) -> None:
    click.secho("\nThe tasks, and what they cost:", bold=True)
    show_tree(document(await mesh.client.tree(task_id)))
    program = _program()
    click.echo(
        f"""
All of it is kept in {mesh.where}:
  {program} task {task_id}{mesh.options}
  {program} events --task {task_id}{mesh.options}
  {program} trees show {task_id}{mesh.options}
Your turn, in a repository of yours:
  {program} ask api-coder "Why does the test fail?"
  {program} up"""
    )


def _fresh_folder() -> Path:
    make_private(_FOLDER.parent)
    _FOLDER.mkdir(mode=0o700, exist_ok=True)
    for old in sorted(_FOLDER.iterdir(), key=lambda path: path.stat().st_mtime)[: -_MAX_KEPT + 1]:
        with suppress(OSError):
            remove_folder(old)
    return Path(tempfile.mkdtemp(prefix="", dir=_FOLDER))


def _program() -> str:
    called = Path(sys.argv[0])
    if called.name != "mesh" or shutil.which("mesh") == str(called.absolute()):
        return "mesh"
    return str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)


def _tokens(text: str) -> int:
    return len(text) // _TOKEN_CHARS


def _call(tool: str, **arguments: str) -> ToolCall:
    return ToolCall(id="", name=tool, arguments=json.dumps(arguments))


_SCRIPT: Mapping[str, _Replies] = {
    "done_when": (
        json.dumps(
            {
                "title": "Take discounts off in percent",
                "goal": "total() takes the discount off as a share of the sum.",
                "done_when": "All of test_prices.py passes.",
                "tests": ["test_prices.py"],
            }
        ),
    ),
    "parts": (
        json.dumps(
            {
                "parts": [
                    {
                        "name": "percent",
                        "capability": "bug-fix",
                        "text": "total() in prices.py subtracts the discount as cents. It is a percentage.",
                    }
                ]
            }
        ),
    ),
    "api-coder": (
        _call("run_tests"),
        _call("view", path="prices.py"),
        _call(
            "edit",
            path="prices.py",
            old="return sum(prices) - discount",
            new="return sum(prices) * (100 - discount) // 100",
        ),
        _call("run_tests"),
        "total() subtracted the discount as cents; it is a share of the sum now. Both tests pass.",
    ),
    "evidence": (
        _call("run_tests"),
        _call("diff"),
        json.dumps({"passed": True, "evidence": ["test_prices.py"], "findings": []}),
    ),
    "approved": (_call("diff"), json.dumps({"approved": True, "findings": []})),
}
"""The replies for an answer with such a field, or to an agent: the next one follows the results so far."""


class _ScriptedJob:
    """The part of the models, as a script: the next reply to each request, and to a repeated one the same."""

    name = "a script"

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Give the reply that follows the results of tools in a request."""
        fields = (request.response_schema or {}).get("properties", {})
        results = sum(message.role == "tool" for message in request.messages)
        answer = _SCRIPT[next(filter(fields.__contains__, _SCRIPT), request.user)][results]
        usage = Usage(
            prompt_tokens=sum(_tokens(message.text) for message in request.messages),
            completion_tokens=_tokens(answer.arguments if isinstance(answer, ToolCall) else answer),
        )
        fields_of_reply: dict[str, Any] = {"model": self.name, "usage": usage, "cost_usd": Decimal(0)}
        if isinstance(answer, ToolCall):
            call = answer.model_copy(update={"id": f"call_{results}"})
            return ModelReply(tool_calls=(call,), finish_reason="tool_calls", **fields_of_reply)
        if on_delta is not None:
            on_delta(answer)
        return ModelReply(content=answer, **fields_of_reply)

    async def close(self) -> None:
        """Nothing to give back."""


def _make_repository(data: Path) -> Path:
    """Make the repository of the job beside the data of its mesh. Raises ConfigError."""
    make_private(data)
    folder = data / "shop"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError as error:
        raise ConfigError(f"{folder} is there already", remedy="Name a fresh folder: --data DIR") from error
    for name, text in _FILES.items():
        (folder / name).write_text(text)
    for arguments in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "Sell things"]):
        try:
            subprocess.run([*_GIT, *arguments], cwd=folder, env=_GIT_ENVIRONMENT, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(f"git {arguments[0]} failed in {folder}", remedy="Install git") from error
    return folder


async def _choose_box(data: Path, model: str) -> str:
    """The box of the demo's tests. A script needs none; raises ToolFailed where a real model has none."""
    try:
        return (await ChosenSandbox(SandboxSettings(), data).choose()).name
    except ToolFailed:
        if model:
            raise
        return "none"


@asynccontextmanager
async def _demo_mesh(data: Path, model: str, box: str) -> AsyncIterator[Connection]:
    """The mesh of the demo: with the models of the project where one is named, else with the script."""
    agents = shipped_agents()
    if model:
        agents = [type(agent.__name__, (agent,), {"model": model}) for agent in agents]
    chosen = None if model else _ScriptedJob()
    async with in_process(
        _settings(Path() if model else data, data, box),
        "work",
        f" --data {data}",
        agents=agents,
        model=chosen,
    ) as mesh:
        yield mesh


def _settings(project: Path, data: Path, box: str) -> Settings:
    trees = {_REPOSITORY: {"repository": str(data.absolute() / "shop")}}
    return load_settings(project, data_dir=data, trees=trees, sandbox={"kind": box})


def _repeated(events: Sequence[Event]) -> int:
    """How many calls of models and tools ended more than once."""
    places = [
        (event.task_id, event.fields.get("attempt"), event.fields.get("path"), event.event_type)
        for event in events
    ]
    return len(places) - len(set(places))


async def _begin(data: Path, model: str, box: str) -> None:
    """Submit the job, and end by SIGKILL in the run of tests that follows the first change."""
    async with _demo_mesh(data, model, box) as mesh:
        receipt = await mesh.client.submit("project-manager", _REQUEST, repository=_REPOSITORY)
        click.echo(receipt.task_id)
        has_changed = False
        async with aclosing(mesh.client.stream(after_seq=0)) as events:
            async for event in events:
                tool, call = ToolCalled.read(event), ModelCalled.read(event)
                has_changed = has_changed or (tool is not None and tool.tool in _CHANGING)
                if call is not None and has_changed and call.tool_calls:
                    os.kill(os.getpid(), signal.SIGKILL)
                if event.task_id == receipt.task_id and event.event_type in _ENDED:
                    return


async def _begin_and_kill(data: Path, model: str, box: str) -> tuple[int, str]:
    """Have another process begin the job, and end by SIGKILL; returns its id and that of the task.

    Raises ServiceFailed where it ended otherwise.
    """
    command = (sys.executable, "-P", "-c", f"from {__name__} import main; main()", str(data), model, box)
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | {"MESH_TRUST": "1"},  # this process was allowed to run the code of the folder
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    task_id = out.decode().strip()
    if process.returncode not in (0, -signal.SIGKILL) or not task_id:
        raise ServiceFailed(f"The process of the job ended with {process.returncode}", remedy="Try again")
    return process.pid, task_id


def main() -> None:
    """Print the id of the job's task, and end in the middle of it."""
    asyncio.run(_begin(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))

"""`mesh ask` and `mesh submit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import from_stdin, json_option, mesh_options, quiet_option, seconds_option
from meshwright.cli.trust import trust_option
from meshwright.errors import NotFound

if TYPE_CHECKING:
    from meshwright.cli.output import Document


@click.command()
@click.argument("agent")
@click.argument("text", callback=from_stdin)
@click.option("--thread", metavar="ID", help="Continue this conversation: the agent sees its history.")
@seconds_option
@quiet_option
@json_option
@mesh_options
@trust_option
def ask(
    agent: str,
    text: str,
    thread: str | None,
    timeout: float,
    quiet: bool,
    as_json: bool,
    url: str | None,
    data: Path | None,
) -> int:
    """Ask an agent, follow its progress, print the answer.

    TEXT is the request in words; - reads it from stdin. Progress goes to stderr, the answer alone to stdout.
    Uses a running mesh if there is one; otherwise the command runs a mesh of its own.
    """
    from meshwright.cli.timeline import print_answer, watch

    async def ask_it(mesh: Connection) -> Document:
        try:
            receipt = await mesh.client.submit(text, agent_id=agent, timeout=timeout, thread_id=thread)
        except NotFound as error:
            raise await _with_names(mesh, agent, error) from None
        return await watch(mesh, receipt.task_id, quiet=quiet)

    return print_answer(talk(url, data, ask_it, need="work"), as_json=as_json)


async def _with_names(mesh: Connection, wanted: str, error: NotFound) -> NotFound:
    """The error that an agent is not known, with the one that was probably meant, or all there are."""
    from meshwright.suggestions import nearest

    names = [agent.agent_id for agent in await mesh.client.agents() if agent.kind == "agent"]
    close = nearest(wanted, names)
    remedy = f"did you mean: mesh ask {close}" if close else f"there are {', '.join(names) or 'none'}"
    return NotFound(error.message, remedy=remedy, field=error.field)


class _JsonObject(click.ParamType[dict[str, Any]]):
    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Parse it, or say where it stops being JSON."""
        try:
            document = json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(f"not JSON: {error}", param, ctx)
        if not isinstance(document, dict):
            self.fail('not a JSON object, such as {"text": "..."}', param, ctx)
        return document


@click.command()
@click.argument("capability")
@click.argument("text", required=False, callback=from_stdin)
@click.option("--agent", metavar="ID", help="Only this agent may do it.")
@click.option("--payload", type=_JsonObject(), default="{}", help="More of the request; TEXT is its `text`.")
@click.option("--priority", type=click.IntRange(0, 10), default=5, show_default=True, help="10 goes first.")
@click.option("--thread", metavar="ID", help="The conversation that the task belongs to.")
@click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key is the same task.")
@click.option("--wait", is_flag=True, help="Follow its progress and print its answer, as mesh ask does.")
@seconds_option
@quiet_option
@json_option
@mesh_options
@trust_option
def submit(
    capability: str,
    text: str | None,
    agent: str | None,
    payload: dict[str, Any],
    priority: int,
    thread: str | None,
    idempotency_key: str | None,
    wait: bool,
    timeout: float,
    quiet: bool,
    as_json: bool,
    url: str | None,
    data: Path | None,
) -> int:
    """Submit a task; the best agent for it gets it.

    CAPABILITY is what an agent must be able to do (mesh agents lists them), TEXT the request in words;
    - reads it from stdin. Prints the task's id.
    """
    from meshwright.cli.output import document
    from meshwright.cli.timeline import print_answer, watch

    async def submit_it(mesh: Connection) -> Document:
        receipt = await mesh.client.submit(
            text,
            capability=capability,
            agent_id=agent,
            payload=payload,
            priority=priority,
            timeout=timeout,
            thread_id=thread,
            idempotency_key=idempotency_key,
        )
        if wait:
            return await watch(mesh, receipt.task_id, quiet=quiet)
        _say_accepted(mesh, document(receipt))
        return document(receipt)

    result = talk(url, data, submit_it, need="work" if wait else "change")
    if wait:
        return print_answer(result, as_json=as_json)
    click.echo(json.dumps(result) if as_json else result["task_id"])
    return 0


def _say_accepted(mesh: Connection, receipt: Document) -> None:
    from meshwright.cli.output import number

    chosen = f"{receipt['dispatched_to']} (score {number(receipt['score'])})"
    shown = f"mesh task {receipt['task_id']}{mesh.options} shows it"
    click.echo(f"{receipt['status']}: {chosen}; {shown}", err=True)
    if not mesh.is_running:
        until = f"until one does: mesh up{mesh.options}"
        click.echo(f"no mesh is running: the task waits in {mesh.where} {until}", err=True)

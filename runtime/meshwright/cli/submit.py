"""`mesh submit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.options import from_stdin, json_option, mesh_options, quiet_option, seconds_option
from meshwright.cli.trust import trust_option


class JsonObject(click.ParamType[Document]):
    """An object written as JSON."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Document:
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
@click.option("--payload", type=JsonObject(), default="{}", help="More of the request; TEXT is its `text`.")
@click.option("--priority", type=click.IntRange(0, 10), default=5, show_default=True, help="10 goes first.")
@click.option("--thread", metavar="ID", help="The conversation that the task belongs to.")
@click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key is the same task.")
@click.option("--wait", is_flag=True, help="Watch its road and print its answer, as mesh ask does.")
@seconds_option
@quiet_option
@json_option
@mesh_options
@trust_option
def submit(
    capability: str,
    text: str | None,
    agent: str | None,
    payload: Document,
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
    """Give the mesh a task; the best agent gets it.

    CAPABILITY is what an agent must be able to do (mesh agents lists them), TEXT the request in words;
    - reads it from stdin. Prints the task's id.
    """
    from meshwright.cli.connect import talk
    from meshwright.cli.watching import announce, answer, watch

    async def submit_it(mesh: MeshClient) -> Document:
        receipt = await mesh.submit(request, idempotency_key=idempotency_key)
        announce(mesh, quiet=quiet or not wait)
        if not wait:
            return _accepted(mesh, receipt)
        return await watch(mesh, receipt["task_id"], quiet=quiet)

    request = {
        "capability": capability,
        "agent_id": agent,
        "payload": payload if text is None else {**payload, "text": text},
        "priority": priority,
        "timeout": timeout,
        "thread_id": thread,
    }
    result = talk(url, data, submit_it, works=wait)
    if wait:
        return answer(result, as_json=as_json)
    click.echo(json.dumps(result) if as_json else result["task_id"])
    return 0


def _accepted(mesh: MeshClient, receipt: Document) -> Document:
    from meshwright.cli.lines import number

    chosen = f"{receipt['dispatched_to']} (score {number(receipt['score'])})"
    click.echo(
        f"{receipt['status']}: {chosen}; mesh task {receipt['task_id']}{mesh.options} shows it", err=True
    )
    if not mesh.is_running:
        click.echo(
            f"no mesh is running: the task waits in {mesh.where} until one does: mesh up{mesh.options}",
            err=True,
        )
    return receipt

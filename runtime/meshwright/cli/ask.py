"""`mesh ask`."""

from __future__ import annotations

from pathlib import Path

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.options import from_stdin, json_option, mesh_options, quiet_option, seconds_option
from meshwright.cli.trust import trust_option
from meshwright.errors import NotFound


@click.command()
@click.argument("agent")
@click.argument("text", callback=from_stdin)
@click.option("--thread", metavar="ID", help="Go on in this conversation: its history is remembered.")
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

    TEXT is the request in words; - reads it from stdin. The road is drawn on stderr, the answer alone goes
    to stdout. A running mesh is used if there is one, else the command runs a mesh of its own.
    """
    from meshwright.cli.connect import talk
    from meshwright.cli.watching import announce, answer, watch

    async def ask_it(mesh: MeshClient) -> Document:
        try:
            receipt = await mesh.submit(request)
        except NotFound as error:
            raise await _with_names(mesh, agent, error) from None
        announce(mesh, quiet=quiet)
        return await watch(mesh, receipt["task_id"], quiet=quiet)

    request = {"agent_id": agent, "payload": {"text": text}, "timeout": timeout, "thread_id": thread}
    return answer(talk(url, data, ask_it, works=True), as_json=as_json)


async def _with_names(mesh: MeshClient, wanted: str, error: NotFound) -> NotFound:
    """The error that an agent is not known, with the one that was probably meant, or all there are."""
    from difflib import get_close_matches

    names = [agent["agent_id"] for agent in await mesh.agents() if agent["kind"] == "agent"]
    close = get_close_matches(wanted, names, n=1)
    remedy = f"did you mean: mesh ask {close[0]}" if close else f"there are {', '.join(names)}"
    return NotFound(error.message, remedy=remedy, field=error.field)

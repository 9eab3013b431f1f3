"""`mesh ask`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.options import json_option, mesh_options, quiet_option, seconds_option


@click.command()
@click.argument("agent")
@click.argument("text")
@click.option("--thread", metavar="ID", help="Go on in this conversation: its history is remembered.")
@seconds_option
@quiet_option
@json_option
@mesh_options
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
    """Ask an agent, watch its road, print its answer.

    TEXT is the request in words; - reads it from stdin. The road is drawn on stderr, the answer alone goes
    to stdout. A running mesh is used if there is one, else the command runs a mesh of its own.
    """
    from meshwright.cli.connect import talk
    from meshwright.cli.watching import announce, answer, watch

    async def ask_it(mesh: MeshClient) -> Document:
        announce(mesh, quiet=quiet)
        receipt = await mesh.submit(request)
        return await watch(mesh, receipt["task_id"], quiet=quiet)

    words = sys.stdin.read() if text == "-" else text
    request = {"agent_id": agent, "payload": {"text": words}, "timeout": timeout, "thread_id": thread}
    return answer(talk(url, data, ask_it, works=True), as_json=as_json)

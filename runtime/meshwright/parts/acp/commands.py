"""`mesh acp`: an agent for editors, which start a program and speak over its stdin and stdout."""

from __future__ import annotations

import asyncio
import os
import select
import sys

import click

from meshwright.kit import Connection, Forbidden, NotFound, Target, completes, mesh_options, nearest, talk
from meshwright.parts.acp.peer import MAX_LINE_BYTES, EditorPeer


@click.command()
@click.argument("agent", shell_complete=completes("agent"))
@mesh_options
def acp(target: Target, agent: str) -> None:
    """Serve an agent to an editor over stdin and stdout.

    For editors of the Agent Client Protocol, such as Zed: mesh acp AGENT in the folder of a project, or with
    --url URL and a key in MESH_ADMIN_TOKEN. The mesh runs already, and goes on with what it has begun when
    the editor closes. A session is a thread, a prompt is a task.
    """

    async def serve(mesh: Connection) -> None:
        mesh.require_running()
        await _check_agent(mesh, agent)
        await _serve(mesh, agent)

    talk(target, serve)


async def _check_agent(mesh: Connection, agent_id: str) -> None:
    try:
        ids = [agent.agent_id for agent in await mesh.client.agents() if agent.kind != "system"]
    except Forbidden:  # a submitter may not list them: its first prompt says it
        return
    if agent_id in ids:
        return
    likely = nearest(agent_id, ids)
    names = ", ".join(sorted(ids)) or "none"
    remedy = f"Did you mean {likely}? There are {names}" if likely else f"There are {names}"
    raise NotFound(
        f"There is no agent {agent_id!r} in the mesh at {mesh.where}", remedy=remedy, field="agent"
    )


async def _serve(mesh: Connection, agent_id: str) -> None:
    from meshwright.parts.acp.sessions import EditorAgent

    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb", 0) as stdin:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), stdin
        )
        peer = EditorPeer(_write)
        agent = EditorAgent(mesh, agent_id, peer)
        try:
            await agent.begin()
            await peer.run(reader, agent.handle)
        except BrokenPipeError:  # the editor has gone; its tasks go on
            pass
        finally:
            await agent.close()
            transport.close()


def _write(line: bytes) -> None:
    descriptor, rest = sys.stdout.fileno(), memoryview(line)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # stdin may be the same socket, which does not block
            select.select((), (descriptor,), ())

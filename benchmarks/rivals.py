"""Others' software to measure beside: in environments of its own in the user's cache, never a dependency."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

PYDANTIC_AI = "pydantic-ai-slim[openai,retries]==2.68.0"
DAPR_AGENTS = "dapr-agents==1.0.9"
LANGGRAPH = "langgraph==1.2.24 langgraph-checkpoint-sqlite==3.1.2 httpx==0.28.1"
DBOS = "dbos==3.4.0 httpx==0.28.1"
RESTATE, RESTATE_SERVER = (
    "restate-sdk==1.2.0 hypercorn==0.18.0 httpx==0.28.1 aiohttp==3.14.5",
    "@restatedev/restate-server@1.7.12",
)
TEMPORAL = "temporalio==1.35.0 httpx==0.28.1"
_INSTALL_SECONDS = 300.0
_BUILD_SECONDS = 1800.0


async def installed(requirements: str) -> Path:
    """The interpreter of the environment of requirements, with spaces between, made if there is none yet.

    Raises RuntimeError, OSError or TimeoutError where it cannot be installed.
    """
    folder = _cache(requirements)
    done, python = folder / "done", folder / "bin" / "python"
    if not done.exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if uv is None:
            raise RuntimeError("there is no uv here")
        await _run(uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder))
        await _run(uv, "pip", "install", "-q", "--python", str(python), *requirements.split())
        done.touch()
    return python


async def installed_npm(package: str, program: str) -> Path:
    """A program of a package of npm, installed if there is none yet. Raises what `installed` raises."""
    folder = _cache(package.replace("/", "-"))
    path = folder / "node_modules" / ".bin" / program
    if not path.exists():
        if shutil.which("npm") is None:
            raise RuntimeError("there is no npm here")
        await _run("npm", "install", "--silent", "--no-save", "--prefix", str(folder), package)
    return path


async def built(source: Path) -> Path:
    """The program of a Go module, built if there is none yet. Raises what `installed` raises."""
    folder = _cache(source.name)
    path = folder / "program"
    if not path.exists():
        if shutil.which("go") is None:
            raise RuntimeError("there is no go here")
        shutil.copytree(source, folder, dirs_exist_ok=True)
        build = ("go", "build", "-C", str(folder), "-mod=mod", "-o", path.name, ".")
        await _run(*build, seconds=_BUILD_SECONDS)
    return path


def _cache(name: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "meshwright" / "bench" / name


async def _run(*command: str, seconds: float = _INSTALL_SECONDS) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    _, errors = await asyncio.wait_for(process.communicate(), seconds)
    if process.returncode:
        raise RuntimeError(" ".join(errors.decode(errors="replace").split())[-300:])

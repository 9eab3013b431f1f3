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
_INSTALL_SECONDS = 300.0


async def installed(requirements: str) -> Path:
    """The interpreter of the environment of requirements, with spaces between, made if there is none yet.

    Raises RuntimeError, OSError or TimeoutError where it cannot be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "meshwright" / "bench" / requirements
    done, python = folder / "done", folder / "bin" / "python"
    if not done.exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if uv is None:
            raise RuntimeError("there is no uv here")
        await _run(uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder))
        await _run(uv, "pip", "install", "-q", "--python", str(python), *requirements.split())
        done.touch()
    return python


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    _, errors = await asyncio.wait_for(process.communicate(), _INSTALL_SECONDS)
    if process.returncode:
        raise RuntimeError(" ".join(errors.decode(errors="replace").split())[-300:])

"""The project installed into an empty environment, without the locks, as users install it."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.services import unavailable

UV = shutil.which("uv", path=Path(sys.executable).parent)
NO_NETWORK = ("error sending request", "failed to fetch", "connection", "network", "temporary failure", "dns")


class Done(NamedTuple):
    status: int | None
    out: str
    err: str


class Installed:
    """An environment of its own, and a folder to work in."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python = python
        self.folder = folder
        self.up = [str(python), "-m", "meshwright.cli", "up"]

    async def mesh(self, *arguments: str, **environment: str) -> Done:
        return await self.run("-m", "meshwright.cli", *arguments, **environment)

    async def run(self, *arguments: str, **environment: str) -> Done:
        process = await self.start(*arguments, **environment)
        out, err = await process.communicate()
        return Done(process.returncode, out.decode(), err.decode())

    async def start(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(self.python, *arguments),
            cwd=self.folder,
            env=os.environ | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


def install(where: Path, requirement: str, *options: str) -> Installed:
    """Install by uv, or by pip where uv is not there; both take what they can from their cache."""
    environment, folder = where / "venv", where / "project"
    folder.mkdir()
    without_pip = ["--without-pip"] if UV else []
    subprocess.run([sys.executable, "-m", "venv", *without_pip, environment], check=True)
    python = environment / "bin" / "python"
    command = [UV, "pip", "install", "--python", python] if UV else [python, "-m", "pip", "install"]
    done = subprocess.run(
        [*command, "-q", *options, requirement], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode and any(sign in done.stderr.lower() for sign in NO_NETWORK):
        unavailable("needs a package index")
    assert done.returncode == 0, done.stderr
    return Installed(python, folder)

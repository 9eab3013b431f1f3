"""Tries the program of a coding agent in a box, for `mesh doctor`: is it there, and new enough?"""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from tempfile import mkdtemp

from meshwright import MeshError
from meshwright.agents.sandbox.port import BoxConnection
from meshwright.core.folders import temporary_folder
from meshwright.kit import ConfigError
from meshwright.parts.coding.acp import AcpClient, AgentFeatures, AgentRefused, Permission
from meshwright.parts.coding.errors import CodingAgentFailed
from meshwright.parts.coding.pipes import ProgramPipes, last_words
from meshwright.parts.coding.programs import Launch, install_command, make_launch, oldest_version
from meshwright.parts.coding.settings import CodingProgram
from meshwright.tools import BoxLimits, Sandbox

_VERSION = re.compile(r"(\d+)\.(\d+)")
_SECONDS = 60.0  # for two answers
_LIMITS = BoxLimits(seconds=120.0, memory_mb=4096, processes=256)


class _NoServer:
    """A network without any server."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    async def serve(self, listener: socket.socket) -> None:
        listener.close()

    async def close(self) -> None:
        pass


async def version_in_box(name: str, table: CodingProgram, sandbox: Sandbox) -> str:
    """The name and version of a program. Raises ConfigError for one that cannot be used."""
    with temporary_folder("meshwright-coding-") as folder:
        tree, home = (Path(mkdtemp(dir=folder)) for _ in range(2))
        launch = make_launch(name, table, home, "none")
        try:
            version = await _version(table, launch, sandbox, tree, home)
        except MeshError as error:
            remedy = install_command(table) or "Try its command by hand"
            raise ConfigError(
                f"[coding.{name}] cannot be used: {error.message}", remedy=remedy, field=f"coding.{name}"
            ) from error
    check_age(name, table, version)
    return version


async def _version(table: CodingProgram, launch: Launch, sandbox: Sandbox, tree: Path, home: Path) -> str:
    if table.protocol == "headless":
        argv = [launch.argv[0], "--version"]
        finished = await sandbox.run(argv, tree, limits=_LIMITS, env=launch.env, read=launch.read)
        lines = finished.output.strip().splitlines()
        return next((line for line in lines if _VERSION.search(line)), "".join(lines[:1]))[:200]
    features, refusal = await _answers(launch, sandbox, tree, home)
    how = "resumes sessions" if features.resumes or features.loads else "begins again after a stop"
    return f"{features.name or launch.argv[0]} {features.version}, {how}{refusal}"


async def _answers(launch: Launch, sandbox: Sandbox, tree: Path, home: Path) -> tuple[AgentFeatures, str]:
    """Its features, and the words with which it begins no session here, where it has no model; often none.

    It is asked both, since some fall silent behind their first answer. Neither costs anything.
    """
    pipes = await ProgramPipes.open()
    connection = BoxConnection(pipes.stdin, pipes.stdout, _NoServer(), home)
    box = asyncio.create_task(
        sandbox.run_connected(launch.argv, tree, connection, limits=_LIMITS, env=launch.env, read=launch.read)
    )
    box.add_done_callback(lambda _: pipes.close_program())
    client = AcpClient(pipes.reader, pipes.writer, _refuse, lambda update: None)
    listening, method = asyncio.create_task(client.listen()), "initialize"
    try:
        async with asyncio.timeout(_SECONDS):
            features = await client.initialize()
            method = "session/new"
            try:
                await client.new_session(str(tree), [])
            except AgentRefused as refusal:
                return features, f"; {refusal.message}"
            return features, ""
    except TimeoutError:
        raise CodingAgentFailed(f"It did not answer {method} within {_SECONDS:g} seconds") from None
    except CodingAgentFailed as error:
        await asyncio.wait([box], timeout=1.0)
        if not box.done():
            raise
        words = last_words(await box)  # raises where it could not be started at all
        raise CodingAgentFailed(f"{error.message}{words}", remedy=error.remedy) from error
    finally:
        pipes.abort()
        for task in (listening, box):
            task.cancel()
        await asyncio.gather(listening, box, return_exceptions=True)


async def _refuse(permission: Permission) -> None:
    return None


def check_age(name: str, table: CodingProgram, version: str) -> None:
    """Raise ConfigError for a version that is older than can be used."""
    numbers = _VERSION.search(version)
    oldest = oldest_version(table)
    if numbers and oldest and (int(numbers[1]), int(numbers[2])) < oldest:
        raise ConfigError(
            f"[coding.{name}] is too old: {version}, and {'.'.join(map(str, oldest))} is needed",
            remedy=install_command(table),
            field=f"coding.{name}.command",
        )

"""The world of a walk in files, by which the tools of other processes tell what they do and read."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import random
import secrets
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from meshwright import CheckResult
from tests.support.walker.programs import Program, Request
from tests.support.walker.world import Effect, World

FOLDER = "WALK_FOLDER"
PACE = 0.05
_PROGRAM, _LINES, _CHECKS = "program.pickle", "world.jsonl", "checks"


class FileWorld(World):
    """The world as a process of the mesh has it: all that happens is on disk before its caller goes on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(pickle.loads((folder / _PROGRAM).read_bytes()), str(folder), pace=PACE)  # noqa: S301 our own
        self._folder = folder
        self._lines = folder / _LINES
        self._chance = random.Random()
        self.checks = (folder / _CHECKS).exists()

    async def do(self, request: Request, task_id: str, key: str) -> str:
        self._write(begin=[task_id, time.time()])
        await asyncio.sleep(self._chance.choice((0, 0, 1, 2, 7)) * PACE)
        effect = Effect(secrets.randbits(48), request, task_id, key, 0, os.getpid())
        self._write(effect=[effect.number, request.tool, request.account, request.amount, task_id, key])
        await asyncio.sleep(self._chance.choice((0, 0, 0, 3)) * PACE)
        self._write(ended=[effect.number])
        return effect.receipt

    def lose_answer(self, task_id: str, request: Request) -> None:
        self._write(lost=[task_id, request.tool, request.account, request.amount])

    async def check(self, request: Request, key: str) -> CheckResult:
        if not self.checks:
            return CheckResult.unknown("nobody can look")
        *whole, _ = self._lines.read_bytes().split(b"\n")
        effects = [line["effect"] for line in map(json.loads, whole) if "effect" in line]
        return self.look(
            [
                Effect(number, Request(tool, account, amount), task_id, sent, 0, 0)
                for number, tool, account, amount, task_id, sent in effects
            ],
            key,
        )

    def read_result(self, request: Request, result: Any) -> None:
        self._write(result=[request.tool, request.account, request.amount, result])

    def read_child(self, job: str, result: Any) -> None:
        self._write(child=[job, result])

    def read_answer(self, question: str, answer: Any) -> None:
        self._write(answer=[question, answer])

    def charged(self) -> None:
        self._write(charged=[])

    def ask(self, task_id: str, place: str, text: str) -> None:
        self._write(ask=[task_id, place, text])

    def hear(self, task_id: str, place: str, value: Any, known_by: str = "") -> None:
        self._write(hear=[task_id, place, value, time.time(), known_by])

    def read_reply(self, text: str, reply: str) -> str:
        self._write(reply=[text, reply])
        return reply

    def session(self, session_id: str) -> MutableMapping[str, Any]:
        return _SessionFile(self._folder / f"session-{session_id}")

    def _write(self, **line: Any) -> None:
        with open(self._lines, "a") as file:
            file.write(f"{json.dumps(line)}\n")
            file.flush()
            os.fsync(file.fileno())


class _SessionFile(dict[str, Any]):
    """What a program outside knows in a session: on disk as soon as it has heard it."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()) if path.exists() else {})
        self._path = path

    def __setitem__(self, place: str, value: Any) -> None:
        super().__setitem__(place, value)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self))
        new.replace(self._path)


class WorldFiles:
    """The files of a walk, as the walker has them."""

    def __init__(self, folder: Path, world: World) -> None:
        self._folder = folder
        self._world = world
        self._read_bytes = 0
        (folder / _LINES).touch()
        if world.checks:
            (folder / _CHECKS).touch()

    def write_program(self, program: Program) -> None:
        (self._folder / _PROGRAM).write_bytes(pickle.dumps(dict(program)))

    def read(self) -> None:
        """Add to the world what is new in the files. A line whose writer was killed is not whole."""
        data = (self._folder / _LINES).read_bytes()[self._read_bytes :]
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            for kind, fields in json.loads(line).items():
                self._take(kind, fields)

    def _take(self, kind: str, fields: list[Any]) -> None:
        world = self._world
        match kind, fields:
            case "effect", [number, tool, account, amount, task_id, key]:
                request = Request(tool, account, amount)
                effect = Effect(number, request, task_id, key, world.act, world.incarnation)
                world.effects.append(effect)
            case "ended", [number]:
                [effect] = [effect for effect in world.effects if effect.number == number]
                effect.has_ended = True
            case "lost", [task_id, tool, account, amount]:
                world.lose_answer(task_id, Request(tool, account, amount))
            case "result", [tool, account, amount, result]:
                world.read_result(Request(tool, account, amount), result)
            case "child", [job, result]:
                world.read_child(job, result)
            case "answer", [question, answer]:
                world.read_answer(question, answer)
            case "charged", _:
                world.charged()
            case "begin", [task_id, at]:
                world.asks.begin(task_id, at)
            case "ask", [task_id, place, text]:
                world.ask(task_id, place, text)
            case "hear", [task_id, place, value, at, known_by]:
                world.asks.hear(task_id, place, value, at, known_by)
            case "reply", [text, reply]:
                world.read_reply(text, reply)

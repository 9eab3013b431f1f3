"""The recorded calls of a job as commands of a shell, for programs that have a tool to run one."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.coding.job import Call, CodingJob
from meshwright.core.errors import ToolFailed
from meshwright.toolsets.code import check, edited

_LEFT_OUT = ("diff", "propose")
"""The tools of api-coder whose work Meshwright does when a program has ended."""


@dataclass(frozen=True)
class Command:
    """A command, with the files that it writes: whole, so that it can be repeated after a kill."""

    text: str
    writes: tuple[str, ...] = ()


@dataclass
class _Replay:
    """A job's files, as the calls so far have left them."""

    job: CodingJob
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files |= self.job.files

    def command(self, call: Call) -> Command:
        arguments = call.arguments
        path = str(arguments.get("path", "."))
        match call.tool:
            case "view":
                return Command(f"cat {shlex.quote(path)}")
            case "list":
                return Command("ls -R")
            case "search":
                return Command(f"grep -rnE {shlex.quote(str(arguments['pattern']))} .")
            case "run_tests":
                return Command(shlex.join(self.job.proof))
            case "edit" | "write" | "revert":
                return self._written(self._changed(call, path)) or Command(f"cat {shlex.quote(path)}")
            case "run":
                command = str(arguments["command"])
                return self._written(self._edited_in_place(command)) or Command(f"({command})")
            case tool:
                raise LookupError(f"{self.job.name} calls {tool}, for which there is no command")

    def _changed(self, call: Call, path: str) -> Mapping[str, str]:
        """The file that a call writes; none where the tool refuses it."""
        arguments = call.arguments
        if call.tool == "revert":
            return {path: self.job.files[path]}
        with suppress(ToolFailed):
            if call.tool == "write":
                check(path, arguments["text"])
                return {path: arguments["text"]}
            text = edited(path, self.files[path], arguments["old"], arguments["new"])
            return {} if text is None else {path: text}
        return {}

    def _edited_in_place(self, command: str) -> Mapping[str, str]:
        """The files that a command changes by sed, which could not be repeated."""
        if "sed -i" not in command:
            return {}
        with tempfile.TemporaryDirectory() as scratch:
            for path, text in self.files.items():
                (Path(scratch) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(scratch) / path).write_text(text)
            subprocess.run(["sh", "-c", command], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
            return {
                path: changed
                for path, text in self.files.items()
                if (changed := (Path(scratch) / path).read_text()) != text
            }

    def _written(self, files: Mapping[str, str]) -> Command | None:
        self.files |= files
        lines = [
            f"printf %s {shlex.quote(text)} > {shlex.quote(path)}" for path, text in sorted(files.items())
        ]
        return Command("\n".join(lines), tuple(sorted(files))) if files else None


def commands_of(job: CodingJob) -> tuple[Command, ...]:
    """The commands that do a job; the output of each ends with a mark, which `steps_in` counts."""
    replay = _Replay(job)
    commands = [replay.command(call) for call in job.calls if call.tool not in _LEFT_OUT]
    return tuple(
        Command(f"{command.text}\necho {mark_of(number, job)}", command.writes)
        for number, command in enumerate(commands)
    )


def mark_of(step: int, job: CodingJob) -> str:
    """The word of a shell that marks a step: its quotes set a command apart from its output."""
    return f"step-'{step}'-of-{job.name}"


def steps_in(outputs: str, job: CodingJob) -> int:
    """How many of a job's commands have ended by what they have written."""
    numbers = [int(number) for number in re.findall(rf"step-(\d+)-of-{job.name}\b", outputs)]
    return max(numbers, default=-1) + 1

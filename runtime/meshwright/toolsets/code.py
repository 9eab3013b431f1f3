"""Tools for work on the code of a task's tree: look, edit, run, test and propose.

An edit replaces exactly one place, and leaves a file that can be parsed one that can.
"""

from __future__ import annotations

import ast
import asyncio
import json
import tomllib
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Annotated, Any, ClassVar

from pydantic import Field

from meshwright.agents.sandbox.port import BoxLimits, SandboxResult
from meshwright.agents.skills.tools import sandbox_options
from meshwright.agents.tools.tool import Tool, ToolContext, tool
from meshwright.agents.tools.toolset import Toolset, ToolSettings
from meshwright.agents.tools.workspace import path_matches
from meshwright.agents.trees.tree import Tree
from meshwright.core.checks import CheckResult
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.toolsets.reports import REPORT, SuiteCommand, suite_command, suite_result

MIN_WINDOW_TOKENS = 32_000
MAX_FILE_BYTES = 1_000_000
_MAX_LISTED, _MAX_LEFT_OUT = 300, 20
_MAX_SHOWN_CHARS = 16_000  # of a diff, to those who approve it
_MAX_WRITTEN_LINES = 200  # of a file that exists: a longer one is edited
_OUTPUT_CHARS = 8_000
_MAX_SECONDS, _TESTS_SECONDS = 600, 300
PROGRAM_TIMEOUT = _MAX_SECONDS + 120.0  # of a tool that runs programs, with the snapshots around it

_Path = Annotated[str, Field(min_length=1, max_length=1_000)]
_AnyPath = Annotated[str, Field(max_length=1_000)]
ALREADY = "already so: the file has the new text, and not the old one"
_TOO_DEEP = (RecursionError, MemoryError)


class ReadingTools(Toolset):
    """Looks at the tree of a task and runs its tests; nothing in it changes."""

    async def tools(self) -> Sequence[Tool]:
        """Its tools, for models that can read a file and its tests together."""
        tools = await super().tools()
        for reading_tool in tools:
            reading_tool.min_window_tokens = MIN_WINDOW_TOKENS
        return tools

    @tool(idempotent=True, effect="read", origin="workspace")
    async def view(
        self,
        path: _Path,
        context: ToolContext,
        start: Annotated[int, Field(ge=1)] = 1,
        lines: Annotated[int, Field(ge=1, le=400)] = 200,
    ) -> str:
        """Show lines of a text file, as they are.

        Args:
            path: the file, from the root of the tree on
            start: the first line wanted, from 1 on
            lines: how many lines are wanted
        """
        tree = await context.tree()
        text = await asyncio.to_thread(tree.files.read, path, MAX_FILE_BYTES)
        all_lines = text.split("\n")
        page = all_lines[start - 1 : start - 1 + lines]
        return f"{path}, lines {start} to {start - 1 + len(page)} of {len(all_lines)}:\n" + "\n".join(page)

    @tool(idempotent=True, effect="read", origin="workspace")
    async def search(
        self,
        pattern: Annotated[str, Field(min_length=1, max_length=300)],
        context: ToolContext,
        glob: Annotated[str, Field(max_length=200)] = "",
    ) -> str:
        r"""Search the lines of the files for a regular expression.

        Args:
            pattern: the expression, such as def \w+_total
            glob: only in files of such paths, as *.py or src/**/*.ts
        """
        matches = await (await context.tree()).search(pattern, glob)
        return matches or "nothing was found"

    @tool(name="list", idempotent=True, effect="read", origin="workspace")
    async def list_tree(self, context: ToolContext, folder: _AnyPath = "") -> str:
        """List the files in and below a folder, without caches and installed packages.

        Args:
            folder: by default the root of the tree
        """
        tree = await context.tree()
        files, is_whole = await asyncio.to_thread(tree.files.walk, folder, _MAX_LISTED)
        more = "" if is_whole else "\n[there are more: name a folder]"
        return "\n".join(file.path for file in files) + more

    @tool(idempotent=True, effect="read", origin="workspace")
    async def diff(self, context: ToolContext, path: _AnyPath = "") -> str:
        """Show all that was changed so far, as a unified diff.

        Args:
            path: only this file or folder
        """
        tree = await context.tree()
        return (await tree.diff(path) or "nothing has changed") + _not_shown(await tree.left_out())

    @tool(idempotent=True, effect="run", origin="workspace", exclusive=True, timeout=PROGRAM_TIMEOUT)
    async def run_tests(self, context: ToolContext, path: _AnyPath = "") -> dict[str, Any]:
        """Run the project's tests in the sandbox, without network; what they write is removed.

        Args:
            path: only the tests of this file or folder
        """
        tree = await context.tree()
        command = await command_for(tree, path)
        return await tree.once(context.step_id, lambda: tree.tried(lambda: run_command(tree, command)))


class EditingTools(ReadingTools):
    """Edits the files of the tree of a task, all of them or those that fit the patterns of `writes`."""

    writes: ClassVar[tuple[str, ...]] = ()

    @tool(idempotent=True, effect="change", origin="workspace", exclusive=True, contained=True)
    async def edit(self, path: _Path, old: str, new: str, context: ToolContext) -> str:
        """Replace a text that occurs exactly once in a file.

        Python, JSON, YAML and TOML that would not parse is not written.

        Args:
            path: the file, from the root of the tree on
            old: the text as it is in the file, with enough lines around the place to be the only one
            new: the text in its place
        """
        tree = await context.tree()

        def work() -> str:
            self._check_written(tree, path)
            text = tree.files.read(path, MAX_FILE_BYTES)
            changed_text = edited(path, text, old, new)
            if changed_text is None:
                return ALREADY
            tree.files.write(path, changed_text)
            return f"{path}: 1 place changed"

        return await tree.once(context.step_id, lambda: _to_the_end(work))

    @tool(idempotent=True, effect="change", origin="workspace", exclusive=True, contained=True)
    async def write(self, path: _Path, text: str, context: ToolContext) -> str:
        """Write a new file, or a whole one that has up to 200 lines; longer ones are edited.

        Args:
            path: the file, from the root of the tree on; its folders are made
            text: all of the file, at most 60,000 characters
        """
        tree = await context.tree()

        def work() -> str:
            self._check_written(tree, path)
            before = tree.files.read(path, MAX_FILE_BYTES) if tree.files.has(path) else None
            if before is not None and before.count("\n") > _MAX_WRITTEN_LINES:
                problem = f"{path} has more than {_MAX_WRITTEN_LINES} lines"
                raise ToolFailed(problem, remedy="Change the places that differ with edit")
            check(path, text, before=before)
            tree.files.write(path, text)
            return f"{path} was {'written' if before is None else 'rewritten'}"

        return await tree.once(context.step_id, lambda: _to_the_end(work))

    def _check_written(self, tree: Tree, path: str) -> None:
        """Raise ToolFailed for a file that may not be written."""
        inside = tree.files.locate(path).as_posix()
        if self.writes and not any(path_matches(inside, pattern) for pattern in self.writes):
            raise ToolFailed(f"{path} may not be written", remedy=f"Write {', '.join(self.writes)}")


class ProposingTools(ReadingTools):
    """Looks at the tree of a task, runs its tests, and proposes changes that others have made."""

    def __init__(self, settings: ToolSettings) -> None:
        super().__init__(settings)
        self._previewed: dict[str, str] = {}
        """The snapshots that previews have shown, by step."""

    @tool(
        idempotent=True,
        effect="change",
        origin="workspace",
        exclusive=True,
        needs_approval=True,
        preview="_proposed",
        check="_was_proposed",
    )
    async def propose(
        self,
        title: Annotated[str, Field(min_length=1, max_length=72, pattern=r"^[^\n]+$")],
        context: ToolContext,
        body: Annotated[str, Field(max_length=4_000)] = "",
    ) -> dict[str, str]:
        """Commit all changes on a branch of their own, once a person has approved the diff.

        Args:
            title: what the commit does, in the imperative and at most 72 characters
            body: why, in a few sentences
        """
        tree = await context.tree()

        async def work() -> dict[str, str]:
            trailers = f"Mesh-Task: {context.task.task_id}\nMesh-Agent: {context.agent_id}"
            message = "\n\n".join(filter(None, (title, body.strip(), trailers)))
            expected = self._previewed.pop(context.step_id, "")
            return {"revision": await tree.commit(message, expected=expected), "branch": tree.branch}

        return await tree.once(context.step_id, work)

    async def _was_proposed(self, context: ToolContext) -> CheckResult:
        result = await (await context.tree()).step_result(context.step_id)
        if result is None:
            return CheckResult.unknown("The tree has no commit of this call that has ended.")
        return CheckResult.happened(result, f"The branch {result['branch']} has commit {result['revision']}.")

    async def _proposed(self, title: str, context: ToolContext, body: str = "") -> str:
        """The changes, as far as they can be shown, with the id of the tree that has all of them."""
        tree = await context.tree()
        snapshot, changed, diff, left_out = await tree.proposal()
        if not changed:
            raise ToolFailed("nothing has changed", remedy="Change something first")
        self._previewed[context.step_id] = snapshot  # of the step that is about to propose: no later one
        listed = "\n".join(f"{change.status} {change.path}" for change in changed[:_MAX_LISTED])
        if len(diff) > _MAX_SHOWN_CHARS:
            whole = f"mesh trees diff {tree.tree_id}"
            diff = (
                f"{diff[:_MAX_SHOWN_CHARS]}\n[cut: the diff has {len(diff):,} characters; {whole} shows it]"
            )
        return f"{listed}\ntree {snapshot}{_not_shown(left_out)}\n\n{diff}"


class CodeTools(EditingTools, ProposingTools):
    """Edits the files of the tree of a task, runs commands on them in the sandbox, and proposes changes."""

    name = "code"

    @tool(
        idempotent=True,
        effect="run",
        origin="workspace",
        exclusive=True,
        timeout=PROGRAM_TIMEOUT,
        contained=True,
    )
    async def run(
        self,
        command: Annotated[str, Field(min_length=1, max_length=20_000)],
        context: ToolContext,
        seconds: Annotated[int, Field(ge=1, le=_MAX_SECONDS)] = 60,
    ) -> dict[str, Any]:
        """Run a bash command in the sandbox, at the root of the tree and without network.

        Args:
            command: as for bash -c
            seconds: how long it may take
        """
        tree = await context.tree()
        readable, env = sandbox_options(self.settings, context.agent_id)

        async def work() -> dict[str, Any]:
            limits = BoxLimits(seconds=float(seconds))
            finished = await tree.run(("bash", "-c", command), limits, readable=readable, env=env)
            return {"status": finished.status, **_ended(finished), "output": _shortened(tree, finished)}

        return await tree.once(context.step_id, work)

    @tool(idempotent=True, effect="change", origin="workspace", exclusive=True, contained=True)
    async def revert(self, context: ToolContext, path: _AnyPath = "") -> str:
        """Undo all that was changed in a file or folder, or in the whole tree.

        Args:
            path: by default the whole tree
        """
        tree = await context.tree()

        async def work() -> str:
            await tree.revert(path)
            return f"{path or 'the tree'} is as it was at the beginning"

        return await tree.once(context.step_id, work)


async def _to_the_end(work: Callable[[], str]) -> str:
    """Run a change of files in a thread, and leave it only once it has ended, also when cancelled."""
    running = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    finally:
        await asyncio.wait([running])


def _not_shown(left_out: Sequence[str]) -> str:
    """Says which files a diff leaves out."""
    more = f" and {len(left_out) - _MAX_LEFT_OUT} more" if len(left_out) > _MAX_LEFT_OUT else ""
    names = ", ".join(left_out[:_MAX_LEFT_OUT])
    return f"\n[ignored, so neither shown nor committed: {names}{more}]" if left_out else ""


async def command_for(tree: Tree, path: str) -> SuiteCommand:
    """The command of a tree's tests. Raises ToolFailed where it cannot be told."""
    if path:
        path = tree.files.locate(path).as_posix()
        if path.startswith("-"):
            raise ToolFailed(f"{path} is no path of tests", remedy="Name a file or folder of the tree")

    def find() -> SuiteCommand | None:
        names = sorted(entry.name for entry in tree.root.iterdir())
        return suite_command(
            names, lambda name: tree.files.read(name, MAX_FILE_BYTES), tree.settings.tests, path
        )

    if (command := await asyncio.to_thread(find)) is None:
        raise ToolFailed(
            "the command of the tests is not known", remedy="Set tests in [trees.NAME], or use run"
        )
    return command


async def run_command(tree: Tree, command: SuiteCommand) -> dict[str, Any]:
    """Run tests, and return their result with the end of the output and the id of all of it."""
    finished = await tree.run(command.argv, BoxLimits(seconds=float(_TESTS_SECONDS)))
    return await asyncio.to_thread(_judged, tree, command, finished)


def _judged(tree: Tree, command: SuiteCommand, finished: SandboxResult) -> dict[str, Any]:
    report = ""
    with suppress(InvalidInput):  # none was written, or one that is too large
        report = tree.files.read(REPORT, 5 * MAX_FILE_BYTES)
    result = suite_result(command, finished.status, finished.output, tree.named_from_root(report))
    output = command.render(finished.output)
    output_fields = {"output": output[-_OUTPUT_CHARS // 2 :], "output_id": tree.keep_output(output)}
    return {**result, **_ended(finished), **output_fields}


def _ended(finished: SandboxResult) -> dict[str, str]:
    return {"ended_by": f"the limit of {finished.ended_by}"} if finished.ended_by else {}


def _shortened(tree: Tree, finished: SandboxResult) -> str:
    text = finished.output
    if len(text) <= _OUTPUT_CHARS:
        return text
    half = _OUTPUT_CHARS // 2
    left_out = f"[{len(text) - 2 * half:,} characters left out; all of it is output {tree.keep_output(text)}]"
    return f"{text[:half]}\n{left_out}\n{text[-half:]}"


def edited(path: str, text: str, old: str, new: str) -> str | None:
    """The text with its one `old` place replaced; None where only the `new` text is in it.

    Raises ToolFailed where `old` is not there exactly once, or the file would not parse any more.
    """
    if "\r\n" in text and "\r" not in old:  # a model writes lines as it saw them
        old, new = (part.replace("\n", "\r\n") for part in (old, new))
    if not old or old == new:
        raise ToolFailed("old is empty, or the same as new", remedy="Give the text to replace as it is now")
    count = text.count(old)
    if count == 0 and new and new in text:
        return None
    if count != 1:
        raise ToolFailed(f"old occurs {count} times in {path}", remedy=_remedy(text, old, count))
    result = text.replace(old, new)
    check(path, result, before=text)
    return result


def check(path: str, text: str, *, before: str | None = None) -> None:
    """Raise ToolFailed where a file that could be parsed, or is new, could not be parsed with this text."""
    parse = _PARSERS.get(PurePath(path).suffix.lower())
    if parse is None or (before is not None and _problem(parse, before)):
        return
    if problem := _problem(parse, text):
        raise ToolFailed(f"{path} was not written: it would not parse: {problem}", remedy="Correct the text")


def _remedy(text: str, old: str, count: int) -> str:
    if count:
        return "Give more of the lines around the place"
    is_spaced = " ".join(old.split()) in " ".join(text.split())
    return "Only its white space differs: view the file and copy it" if is_spaced else "View the file first"


def _problem(parse: Callable[[str], object], text: str) -> str:
    try:
        parse(text)
    except (SyntaxError, ValueError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    except _TOO_DEEP:
        return "it is nested too deep"
    return ""


def _parse_python(text: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the file are no matter of ours
        return ast.parse(text)


def _parse_yaml(text: str) -> object:
    import yaml

    try:
        return sum(1 for _ in yaml.parse(text, Loader=yaml.SafeLoader))  # events: aliases are not expanded
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


_PARSERS: dict[str, Callable[[str], object]] = {
    ".py": _parse_python,
    ".pyi": _parse_python,
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}

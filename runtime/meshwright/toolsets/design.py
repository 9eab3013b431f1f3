"""The toolset `design`: pages of a task's tree, rendered by a real browser in the sandbox, and judged.

The browser gets its files from the tree alone and reaches no network, so that a page needs no server; a
project that has to be built is built by `run` first.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from meshwright.agents.sandbox.execution import Interpreter
from meshwright.agents.sandbox.port import BoxLimits, Sandbox, SandboxResult
from meshwright.agents.tools.tool import ToolContext, tool
from meshwright.agents.tools.toolset import Toolset
from meshwright.agents.trees.tree import Tree
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.files import File
from meshwright.core.folders import temporary_folder
from meshwright.core.settings.forms import Table

_RESULT = ".meshwright-page.json"
_SOURCE = files("meshwright.toolsets").joinpath("browser.py").read_text()
_MAX_RESULT_BYTES = 20_000_000
_SPARE_SECONDS = 15.0  # of the box, beyond those that the page has
_TIMEOUT = 300.0
_MEMORY_MB, _PROCESSES = 2_048, 256
_INSTALL = "Install Chromium (apt install chromium), or name its program: program in [tools.design]"
_BOX = "A browser takes the box of bubblewrap, which docs/sandbox.md describes"

_Path = Annotated[str, Field(min_length=1, max_length=1_000)]
_Folder = Annotated[str, Field(max_length=1_000)]
_Width = Annotated[int, Field(ge=240, le=3_840)]


class DesignSettings(Table):
    """[tools.design]: the browser that renders pages."""

    program: Path = Path("/usr/lib/chromium/chromium")
    """The program of Chromium or Chrome itself, no script that starts it; by default that of Debian."""
    seconds: float = Field(default=30.0, gt=0, le=200)
    """Seconds that a page may take until it is rendered and examined."""


class DesignTools(Toolset):
    """Renders pages of the tree of a task, examines them, and takes pictures; nothing in the tree changes."""

    name = "design"
    config_type = DesignSettings
    config: DesignSettings

    @property
    def lack(self) -> str:
        """The browser, where there is none."""
        return "" if self.config.program.is_file() else f"{self.config.program} is not there. {_INSTALL}"

    async def check(self) -> str:
        """Ask the browser for its version. Raises ToolFailed where it does not start in the sandbox."""
        if self.lack:
            return f"no tools: {self.lack}"
        box: Sandbox = self.settings.get(Sandbox)
        with temporary_folder("mesh-page-") as folder:
            command = [str(self.config.program), "--version"]
            finished = await box.run(command, folder, limits=self._limits)
        if finished.status != 0:
            raise ToolFailed(f"the browser does not start: {finished.output[-500:].strip()}", remedy=_BOX)
        return f"{finished.output.strip()} in the box of {box.name}"

    @tool(idempotent=True, effect="run", origin="workspace", exclusive=True, timeout=_TIMEOUT)
    async def audit(
        self,
        path: _Path,
        context: ToolContext,
        widths: Annotated[tuple[_Width, ...], Field(min_length=1, max_length=4)] = (320, 1280),
        site: _Folder = "",
        dark: bool = False,
    ) -> dict[str, Any]:
        """Render a page, and list what is wrong with it: contrast of texts, names of controls and pictures,
        headings, overflow and clipped text at each width, small or covered controls, errors of its scripts,
        files that it lacks. `heard` is the page as a screen reader has it.

        A width of 640 is a window of 1280 at 200 % zoom. Texts over pictures are not measured.

        Args:
            path: the page, an HTML file of the tree
            widths: of the window, in pixels
            site: the folder that /addresses of the page begin at; by default the root of the tree
            dark: render it for those who prefer dark colours
        """
        source = files("meshwright.toolsets").joinpath("audit.js").read_text()
        tree = await context.tree()
        order = {"audit": source, "widths": sorted(set(widths)), "dark": dark}

        async def work() -> dict[str, Any]:
            result = await self._rendered(tree, path, site, order)
            return {**result, "findings": _merged(result["findings"])}

        return await tree.once(context.step_id, work)

    @tool(idempotent=True, effect="run", origin="workspace", exclusive=True, timeout=_TIMEOUT)
    async def screenshot(
        self,
        path: _Path,
        context: ToolContext,
        width: _Width = 1280,
        height: Annotated[int, Field(ge=200, le=4_000)] = 800,
        whole: bool = True,
        site: _Folder = "",
        dark: bool = False,
        attach: bool = False,
    ) -> dict[str, Any]:
        """Render a page and look at it: the picture is shown beside the result.

        Args:
            path: the page, an HTML file of the tree
            width: of the window, in pixels
            height: of the window
            whole: the whole page, up to 8,000 pixels, and not only the window
            site: the folder that /addresses of the page begin at; by default the root of the tree
            dark: render it for those who prefer dark colours
            attach: give the picture to the outcome of the task too
        """
        tree = await context.tree()
        order = {"widths": [width], "height": height, "whole": whole, "dark": dark}

        async def work() -> dict[str, Any]:
            result = await self._rendered(tree, path, site, order)
            return {**result, "picture": tree.keep_output(result["picture"])}

        result = await tree.once(context.step_id, work)
        data = base64.b64decode(tree.output(result.pop("picture")))
        file = File(name=f"{Path(path).stem}-{width}.{result.pop('kind')}", data=data)
        if attach:
            await context.attach(file)
        return {**result, "picture": file}

    async def _rendered(self, tree: Tree, path: str, site: str, order: Mapping[str, Any]) -> dict[str, Any]:
        """The result of an order. Call it within `once`."""
        page, folder = tree.files.locate(path), tree.files.locate(site)
        if not page.is_relative_to(folder):
            raise InvalidInput(f"{path!r} is not in {site!r}", remedy="Name a folder above it", field="site")
        if not (tree.root / page).is_file():
            raise InvalidInput(f"{path!r} is no file", remedy="list shows what there is", field="path")
        command = self._command(tree.root / folder, page.relative_to(folder).as_posix(), order)

        async def work() -> dict[str, Any]:
            finished = await tree.run(command, self._limits)
            has_result = tree.files.has(_RESULT)
            text = await asyncio.to_thread(tree.files.read, _RESULT, _MAX_RESULT_BYTES) if has_result else ""
            return _result(finished, text)

        return await tree.tried(work)

    def _command(self, site: Path, path: str, order: Mapping[str, Any] = {}) -> list[str]:
        usual = {"audit": "", "widths": [1280], "height": 800, "whole": False, "dark": False}
        place = {"program": str(self.config.program), "site": str(site), "path": path, "result": _RESULT}
        document = {**usual, **order, **place, "seconds": self.config.seconds}
        return [*Interpreter.own().command(_SOURCE), json.dumps(document)]

    @property
    def _limits(self) -> BoxLimits:
        seconds = self.config.seconds + _SPARE_SECONDS
        return BoxLimits(seconds=seconds, memory_mb=_MEMORY_MB, processes=_PROCESSES)


def _result(finished: SandboxResult, text: str) -> dict[str, Any]:
    """The result that the browser's program has written. Raises ToolFailed without one."""
    try:
        result = json.loads(text)
        error = str(result.get("error", ""))
    except (ValueError, AttributeError, RecursionError):
        reason = f"ended by the limit of {finished.ended_by}" if finished.ended_by else finished.output[-500:]
        raise ToolFailed(f"the page was not rendered: {reason.strip() or 'no result'}", remedy=_BOX) from None
    if error:
        notes = "; ".join(map(str, result.get("problems", ())))
        remedy = "" if result.get("browser") else _BOX
        raise ToolFailed(f"the page was not rendered: {error}{f' ({notes})' if notes else ''}", remedy=remedy)
    return result


def _merged(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings of several widths, each once, with the widths that it was found at."""
    merged: dict[tuple[str, str, str], dict[str, Any]] = {}
    for finding in findings:
        key = (finding["rule"], finding["element"], finding["detail"])
        entry = merged.setdefault(key, {name: finding[name] for name in ("rule", "element", "detail")})
        if "width" in finding:
            entry.setdefault("widths", []).append(finding["width"])
    return list(merged.values())

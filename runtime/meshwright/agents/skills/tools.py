"""The tool by which an agent reads its skills."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from meshwright.agents.skills.catalog import Skills
from meshwright.agents.skills.event_types import SkillRead
from meshwright.agents.skills.skill import Skill
from meshwright.agents.tools.settings import Effect
from meshwright.agents.tools.tool import Origin, Tool, ToolContext
from meshwright.agents.tools.toolset import ToolSettings
from meshwright.core.errors import InvalidInput, ToolFailed, nearest
from meshwright.core.payloads import StepPayload

NAME = "read_skill"
VARIABLE = "SKILLS"
"""The variable of programs in the sandbox that names the folder of the skills."""
_PAGE_CHARS = 28_000  # as JSON, so that a result is never cut
_MAX_TEXT_BYTES = 1_000_000
_MAX_LISTED = 200
_BINARY_PROBE_BYTES = 8_192


class SkillTool(Tool):
    """Reads the SKILL.md of a skill of one agent, or another of its files, from the copy of its version."""

    name = NAME
    description = (
        "Read a skill: its SKILL.md, or another of its text files. "
        "Paths in a skill are relative to its folder."
    )
    parameters = {  # noqa: RUF012 that is never changed
        "type": "object",
        "properties": {
            "skill": {"type": "string", "description": "its name, as <available_skills> has it"},
            "file": {"type": "string", "default": "", "description": "one of its files; by default SKILL.md"},
            "start": {"type": "integer", "minimum": 0, "default": 0, "description": "the first character"},
        },
        "required": ["skill"],
        "additionalProperties": False,
    }
    idempotent = True
    effect: Effect = "read"

    def __init__(self, skills: Skills, agent_id: str, has_box: Callable[[], bool]) -> None:
        """`has_box` says whether the agent has a tool that runs programs."""
        self._skills, self._agent_id, self._has_box = skills, agent_id, has_box

    @property
    def origin(self) -> Origin:  # type: ignore[override]
        """`outside` where strangers wrote one of the agent's skills."""
        is_outside = any(skill.is_outside for skill in self._skills.for_agent(self._agent_id))
        return "outside" if is_outside else "own"

    async def call(self, arguments: str, context: ToolContext) -> dict[str, Any]:
        """Read a page of a file. Raises ToolFailed for a skill that is not there any more."""
        values = self.validated(arguments)
        skill = self._named(values["skill"])
        file = values["file"] or skill.file
        if file not in skill.files:
            near = nearest(file, skill.files)
            remedy = f"Did you mean {near!r}?" if near else f"It has {', '.join(skill.files[:_MAX_LISTED])}"
            raise InvalidInput(f"{skill.title} has no file {file!r}", remedy=remedy, field="file")
        text = await asyncio.to_thread(self._text, skill, file)
        page: dict[str, Any] = {"skill": skill.title, "digest": skill.digest, "file": file}
        page |= _page(text, values["start"])
        if file == skill.file:
            page["files"] = _others(skill)
            if self._has_box():
                page["folder"] = f"${VARIABLE}/{skill.copy_name}"
        return page

    def events(self, value: Any) -> Sequence[StepPayload]:
        """The event that says which version was read."""
        if not isinstance(value, dict):
            return ()
        title, digest = value["skill"], value["digest"]
        source = title.partition(":")[0] if ":" in title else "project"
        return (SkillRead(skill=title, digest=digest, file=value["file"], source=source),)

    def _named(self, title: str) -> Skill:
        skills = {skill.title: skill for skill in self._skills.for_agent(self._agent_id)}
        if title not in skills:
            there = f"There are {', '.join(skills)}" if skills else "Go on without it"
            raise ToolFailed(f"there is no skill {title!r}", remedy=there)
        return skills[title]

    def _text(self, skill: Skill, file: str) -> str:
        path = self._skills.skill_folder(skill) / file
        try:
            with path.open("rb") as opened:
                data = opened.read(_MAX_TEXT_BYTES + 1)
        except OSError as error:
            problem = f"the copy of {skill.title} cannot be read: {error.strerror}"
            raise ToolFailed(problem, remedy="Restart the mesh, which makes it again") from error
        if len(data) > _MAX_TEXT_BYTES or b"\0" in data[:_BINARY_PROBE_BYTES]:
            what = f"more than {_MAX_TEXT_BYTES:,} bytes" if len(data) > _MAX_TEXT_BYTES else "no text"
            remedy = "Use it with programs in the sandbox" if self._has_box() else "Go on without it"
            raise InvalidInput(f"{file!r} has {what}", remedy=remedy, field="file")
        return data.decode(errors="replace")


def sandbox_options(settings: ToolSettings, agent_id: str) -> tuple[list[Path], dict[str, str]]:
    """The folders of an agent's skills that its programs may read, and the variable that leads there."""
    try:
        skills = settings.get(Skills)
    except LookupError:  # a toolset may be used without a mesh
        return [], {}
    places = [skills.skill_folder(skill) for skill in skills.for_agent(agent_id)]
    return places, {VARIABLE: str(places[0].parent)} if places else {}


def _page(text: str, start: int) -> dict[str, Any]:
    """A part of a text, and where the next begins, if there is more. Raises InvalidInput."""
    if start and start >= len(text):
        raise InvalidInput(f"the file has {len(text):,} characters", field="start")
    page = text[start : start + _PAGE_CHARS]
    while len(to_json(page).decode()) > _PAGE_CHARS:
        page = page[: len(page) * 9 // 10]
    end = start + len(page)
    return {"text": page} | ({"next_start": end, "total_chars": len(text)} if end < len(text) else {})


def _others(skill: Skill) -> list[str]:
    """The other files of a skill, as many as a result can list."""
    others = [file for file in skill.files if file != skill.file]
    listed: list[str] = []
    room = 2_000
    for file in others[:_MAX_LISTED]:
        room -= len(file)
        if room < 0:
            break
        listed.append(file)
    more = len(others) - len(listed)
    return [*listed, f"and {more} more"] if more else listed

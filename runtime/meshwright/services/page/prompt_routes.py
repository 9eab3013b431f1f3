"""`/prompts/{name}/versions/{version}`: a version of a prompt file and the one before it, as git has them."""

from __future__ import annotations

import asyncio
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import Path

from meshwright.agents.loader import prompts_folder
from meshwright.core.access import Role
from meshwright.core.encoding import Struct
from meshwright.core.errors import NotFound, PromptError
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import Caller
from meshwright.edges.http.routing import MeshDep, make_router, needs
from meshwright.prompts.history import History, Version
from meshwright.work.protocol import DEFAULT_TENANT

prompt_router = make_router("prompts")


class PromptFileVersion(Struct):
    """A version of a prompt file: the beginning of its digest, and the commit that made it.

    `revision`, `author` and `at` are empty for a file that is not committed.
    """

    version: str
    revision: str
    author: str
    at: str
    subject: str
    text: str


class PromptFileVersions(Struct):
    """A version, and the one before it. Both are null if there is none for you."""

    now: PromptFileVersion | None = None
    before: PromptFileVersion | None = None


@prompt_router.get(
    "/prompts/{name}/versions/{version}",
    summary="Show a version of a prompt file",
)
async def _show_version(
    mesh: MeshDep,
    caller: Annotated[Caller, needs(Role.CONTENTS)],
    name: Annotated[str, Path(pattern=ID_PATTERN)],
    version: Annotated[
        str, Path(pattern="^[0-9a-f]{12,64}$", description="As `prompt` of an outcome has it.")
    ],
) -> PromptFileVersions:
    """Show a version of a prompt file of the project and the version before it, by the git of the mesh's
    machine, as `mesh prompts diff` does. Registered prompts are at `/v1/prompts`.

    Files are the operator's: callers of another tenant than `default` get none.
    """
    if not (caller.tenant_id == DEFAULT_TENANT or caller.all_tenants or caller.is_proxy):
        return PromptFileVersions()
    path = prompts_folder(mesh.project, mesh.settings) / f"{name}.prompt"
    try:
        return await asyncio.to_thread(_find, path, version)
    except (NotFound, PromptError):  # a prompt of the agent's code, or a project without git
        return PromptFileVersions()


def _find(path: FilePath, version: str) -> PromptFileVersions:
    history = History(path)
    found = history.find(version)
    earlier = history.versions[history.versions.index(found) + 1 :]
    return PromptFileVersions(now=_shown(found), before=_shown(earlier[0]) if earlier else None)


def _shown(version: Version) -> PromptFileVersion:
    return PromptFileVersion(
        version=version.name,
        revision=version.revision,
        author=version.author,
        at=version.at,
        subject=version.subject,
        text=version.text,
    )

"""`/v1/prompts`: register prompts, read their versions, and say by labels which version is live."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Query, Response
from pydantic import Field, model_validator

from meshwright.core.errors import InvalidInput
from meshwright.core.ids import ID_PATTERN, Identifier
from meshwright.core.messages import Caller
from meshwright.edges.bodies import Strict
from meshwright.edges.http.routing import MeshDep, ReadyMesh, by_rule, make_router, problems
from meshwright.services.llmops.operations import CHANGE, READ, SEE, PromptRegistry
from meshwright.services.llmops.records import (
    MAX_VERSION,
    LabelChange,
    PromptChange,
    PromptPage,
    PromptRequest,
    PromptSummary,
    PromptVersion,
    PromptVersionPage,
    Version,
)
from meshwright.services.llmops.trial import PromptInputs, PromptTest, PromptTestOptions, test_prompt

router = make_router("prompts", names_tenant=True)
_NONE = {404: "No such prompt, version or label is registered."}
_MAY_CHANGE = {403: "Only a caller with the role operator changes prompts."}
_MAY_PROTECT = {403: "Only an administrator moves `production`, an operator other labels."}
_FULL = {507: "The tenant has as many prompts, or the prompt as many versions, as it may."}


class _PromptQuery(Strict):
    """Which prompts to list. `cursor` is the `cursor` of the page before."""

    limit: int = Field(default=100, ge=1, le=500)
    cursor: Identifier | None = None


class _HistoryQuery(Strict):
    limit: int = Field(default=100, ge=1, le=500)
    cursor: Version = MAX_VERSION


class _VersionQuery(Strict):
    """Which version to show: by its number or by a label, else the newest."""

    version: Version | None = None
    label: Identifier | None = None

    @model_validator(mode="after")
    def _one(self) -> _VersionQuery:
        if self.version is not None and self.label is not None:
            raise ValueError("give either version or label")
        return self


async def _registry_of(mesh: MeshDep) -> PromptRegistry:
    return mesh.get(PromptRegistry)


_Registry = Annotated[PromptRegistry, Depends(_registry_of)]
_ViewerDep = Annotated[Caller, by_rule(SEE)]
_ReaderDep = Annotated[Caller, by_rule(READ)]
_OperatorDep = Annotated[Caller, by_rule(CHANGE)]
_Name = Annotated[str, Path(pattern=ID_PATTERN)]
_Label = Annotated[str, Path(pattern=ID_PATTERN)]
_IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description='The digest of the newest version, as its ETag: `"9f86..."`.'),
]


@router.get("/v1/prompts", summary="List registered prompts")
async def _list_prompts(
    registry: _Registry, caller: _ViewerDep, query: Annotated[_PromptQuery, Query()]
) -> PromptPage:
    """List the prompts of your tenant by name, each with its newest version and its labels."""
    return await registry.page(caller, after=query.cursor or "", limit=query.limit)


@router.post(
    "/v1/prompts",
    status_code=201,
    summary="Register a prompt",
    response_description="Durable. Agents use it once a version has the label `production`.",
    responses=problems({409: "There is a prompt of that name.", **_MAY_CHANGE, **_FULL}),
)
async def _register_prompt(
    registry: _Registry, caller: _OperatorDep, request: PromptRequest, response: Response
) -> PromptVersion:
    """Register version 1 of a prompt; of a name that was deleted the next version.

    The template is the body of a `.prompt` file, and the parameters are its front matter. They are checked as
    a file is: a mistake is a 422 with the `line` of the template.
    """
    version = await registry.register(caller, request)
    response.headers["Location"] = f"/v1/prompts/{version.name}"
    return _tagged(response, version)


@router.get("/v1/prompts/{name}", summary="Show a prompt", responses=problems(_NONE))
async def _show_prompt(
    registry: _Registry,
    caller: _ReaderDep,
    name: _Name,
    query: Annotated[_VersionQuery, Query()],
    response: Response,
) -> PromptVersion:
    """Show a version, the newest by default. Versions of a deleted prompt are shown by their numbers."""
    version = await registry.show(caller, name, version=query.version, label=query.label)
    return _tagged(response, version)


@router.post(
    "/v1/prompts/{name}/test",
    summary="Test a version",
    response_description="The result; with the status `running` where it took longer than `wait`.",
    responses=problems({**_NONE, **_MAY_CHANGE}),
)
async def _test_prompt(
    registry: _Registry,
    mesh: ReadyMesh,
    caller: _OperatorDep,
    name: _Name,
    query: Annotated[PromptTestOptions, Query()],
    inputs: PromptInputs,
) -> PromptTest:
    """Have the prompt's agent do a real task with a version of it, and show result and cost.

    It takes the roles operator and submitter. The task is listed, journaled and charged as any other, and may
    be followed at `/tasks/{task_id}`.
    """
    return await test_prompt(mesh, caller, name, inputs.root, query)


@router.get("/v1/prompts/{name}/versions", summary="List versions", responses=problems(_NONE))
async def _list_versions(
    registry: _Registry, caller: _ViewerDep, name: _Name, query: Annotated[_HistoryQuery, Query()]
) -> PromptVersionPage:
    """List the versions of a prompt, the newest first; also of one that was deleted."""
    return await registry.history(caller, name, before=query.cursor, limit=query.limit)


@router.put(
    "/v1/prompts/{name}",
    summary="Make a version",
    response_description="Durable. The newest version: a new one, or that with the same text.",
    responses=problems({412: "There is a newer version.", **_NONE, **_MAY_CHANGE, **_FULL}),
)
async def _change_prompt(
    registry: _Registry,
    caller: _OperatorDep,
    name: _Name,
    change: PromptChange,
    response: Response,
    if_match: _IfMatch = None,
) -> PromptVersion:
    """Make a version that replaces none: versions never change, and labels stay where they are."""
    version = await registry.change(caller, name, change, expected=_digests(if_match))
    return _tagged(response, version)


@router.delete(
    "/v1/prompts/{name}",
    status_code=204,
    summary="Delete a prompt",
    responses=problems({**_NONE, **_MAY_PROTECT}),
)
async def _delete_prompt(registry: _Registry, caller: _OperatorDep, name: _Name) -> Response:
    """Delete a prompt with its labels. Its versions stay readable by number."""
    await registry.remove(caller, name)
    return Response(status_code=204)


@router.put(
    "/v1/prompts/{name}/labels/{label}",
    summary="Set a label",
    response_description="Durable: agents use `production` from their next attempt on.",
    responses=problems({**_NONE, **_MAY_PROTECT}),
)
async def _set_label(
    registry: _Registry, caller: _OperatorDep, name: _Name, label: _Label, change: LabelChange
) -> PromptSummary:
    """Point a label at a version: a rollback is a label that points at an earlier one."""
    return await registry.label(caller, name, label, change.version)


@router.delete(
    "/v1/prompts/{name}/labels/{label}",
    status_code=204,
    summary="Delete a label",
    responses=problems({**_NONE, **_MAY_PROTECT}),
)
async def _delete_label(registry: _Registry, caller: _OperatorDep, name: _Name, label: _Label) -> Response:
    """Delete a label. Without `production` agents use their prompt files again."""
    await registry.unlabel(caller, name, label)
    return Response(status_code=204)


def _tagged(response: Response, version: PromptVersion) -> PromptVersion:
    response.headers["ETag"] = f'"{version.digest}"'
    return version


def _digests(if_match: str | None) -> tuple[str, ...]:
    """The digests of If-Match, none for any. Raises InvalidInput."""
    tags = [tag.strip() for tag in (if_match or "*").split(",")]
    if tags == ["*"]:
        return ()
    if not all(len(tag) > 2 and tag[0] == tag[-1] == '"' for tag in tags):
        remedy = 'Send the ETag of the newest version, such as If-Match: "9f86d081..."'
        raise InvalidInput("If-Match is no list of digests in quotes", remedy=remedy, field="If-Match")
    return tuple(tag[1:-1] for tag in tags)

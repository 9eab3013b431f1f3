"""Operations on the registered prompts of tenants, which are changed at the mesh's fronts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meshwright.agents.loader import prompt_variables
from meshwright.component import Audit, Caller
from meshwright.kit import AgentTypes, Identifier, InvalidInput, Limit, Role, Rule, has_role, operation
from meshwright.parts.llmops import table
from meshwright.parts.llmops.event_types import (
    PromptDeleted,
    PromptLabelled,
    PromptRegistered,
    PromptUnlabelled,
)
from meshwright.parts.llmops.live_prompts import LivePromptSource
from meshwright.parts.llmops.records import (
    MAX_VERSION,
    PromptChange,
    PromptPage,
    PromptRequest,
    PromptSummary,
    PromptVersion,
    PromptVersionPage,
    Version,
    VersionQuery,
    prompt_row,
)
from meshwright.parts.llmops.table import PRODUCTION, MatchedVersion

SEE = Rule("lists registered prompts", (Role.VIEWER,))
READ = Rule("reads registered prompts", (Role.CONTENTS, Role.OPERATOR))
CHANGE = Rule("changes registered prompts", (Role.OPERATOR,))
PROTECT = Rule(f"moves the label {PRODUCTION}", (Role.ADMIN,))
NONE = {404: "No such prompt, version or label is registered."}
MAY_CHANGE = {403: "Only a caller with the role operator changes prompts."}
FULL = {507: "The tenant has as many prompts, or the prompt as many versions, as it may."}
_LABEL = {**NONE, 403: "Only an administrator moves `production`, an operator other labels."}
_ETAG = {"ETag": '"{0.digest}"'}
_ROUTE = "/v1/prompts/{name}"
_Change = PromptDeleted | PromptLabelled | PromptUnlabelled


class PromptRegistry(LivePromptSource):
    """Registered prompts. Operations of one raise NotFound where it, its version or its label is not there.

    Changes are durable when they return. They raise InvalidPrompt, Conflict and StorageExceeded.
    """

    @operation(SEE, "GET /v1/prompts", "List registered prompts", name="list_prompts")
    async def page(
        self, caller: Caller, *, limit: Limit = 100, cursor: Identifier | None = None
    ) -> PromptPage:
        """List the prompts of your tenant by name, each with its newest version and its labels."""
        rows = await self.mesh.database.read(table.page, caller.tenant_id, cursor or "", limit + 1)
        items = _summaries(caller, rows[:limit])
        return PromptPage(items=items, cursor=items[-1].name if len(rows) > limit else None)

    @operation(
        CHANGE,
        "POST /v1/prompts",
        "Register a prompt",
        name="register_prompt",
        status=201,
        response="Durable. Agents use it once a version has the label `production`.",
        headers={"Location": "/v1/prompts/{0.name}", **_ETAG},
        errors={409: "There is a prompt of that name.", **MAY_CHANGE, **FULL},
    )
    async def register(self, caller: Caller, request: PromptRequest) -> PromptVersion:
        """Register version 1 of a prompt; of a name that was deleted the next version.

        The template is the body of a `.prompt` file, and the parameters are its front matter. They are checked as
        a file is: a mistake is a 422 with the `line` of the template.
        """  # noqa: E501 as the API documents it
        return await self._add(caller, request.name, request, is_new=True)

    @operation(
        READ,
        f"GET {_ROUTE}",
        "Show a prompt",
        name="show_prompt",
        headers=_ETAG,
        errors=NONE,
        request=VersionQuery,
    )
    async def show(
        self, caller: Caller, name: Identifier, *, version: int | None = None, label: str | None = None
    ) -> PromptVersion:
        """Show a version, the newest by default. Versions of a deleted prompt are shown by their numbers."""
        return PromptVersion.from_match(await self._find(caller, name, version, label))

    @operation(SEE, f"GET {_ROUTE}/versions", "List versions", name="list_versions", errors=NONE)
    async def history(
        self, caller: Caller, name: Identifier, *, limit: Limit = 100, cursor: Version = MAX_VERSION
    ) -> PromptVersionPage:
        """List the versions of a prompt, the newest first; also of one that was deleted."""
        rows = await self.mesh.database.read(table.history, caller.tenant_id, name, cursor, limit + 1)
        items = _summaries(caller, rows[:limit])
        return PromptVersionPage(items=items, cursor=items[-1].version if len(rows) > limit else None)

    @operation(CHANGE)
    async def change(
        self, caller: Caller, name: str, change: PromptChange, *, expected: Sequence[str] = ()
    ) -> PromptVersion:
        """Make a version, unless the newest has the same text. Raises NotFound, InvalidPrompt, and
        PreconditionFailed where the digest of the newest is none of those that are `expected`."""
        if change.name not in ("", name):
            problem = f"The path names the prompt {name!r}, the body {change.name!r}"
            raise InvalidInput(problem, remedy="Leave name out: it never changes", field="name")
        await self._find(caller, name)
        return await self._add(caller, name, change, is_new=False, expected=expected)

    @operation(CHANGE, f"DELETE {_ROUTE}", "Delete a prompt", name="delete_prompt", status=204, errors=_LABEL)
    async def remove(self, caller: Caller, name: Identifier) -> None:
        """Delete a prompt with its labels. Its versions stay readable by number."""
        is_live = PRODUCTION in (await self._find(caller, name)).labels
        if is_live:  # it takes the role that moves the label
            PROTECT.check(caller)
        await self._change(caller, PromptDeleted(name=name), table.delete, name, also_live=is_live)

    @operation(
        CHANGE,
        f"PUT {_ROUTE}/labels/{{label}}",
        "Set a label",
        name="set_label",
        response="Durable: agents use `production` from their next attempt on.",
        errors=_LABEL,
        request="LabelChange",
        about="The version that a label points at.",
    )
    async def label(
        self, caller: Caller, name: Identifier, label: Identifier, version: Version
    ) -> PromptSummary:
        """Point a label at a version: a rollback is a label that points at an earlier one."""
        if label == PRODUCTION:
            PROTECT.check(caller)
        await self._find(caller, name, version)
        moved = PromptLabelled(name=name, label=label, version=version)
        await self._change(caller, moved, table.set_label, name, label, version)
        return PromptSummary.from_match(await self._find(caller, name))

    @operation(
        CHANGE,
        f"DELETE {_ROUTE}/labels/{{label}}",
        "Delete a label",
        name="delete_label",
        status=204,
        errors=_LABEL,
    )
    async def unlabel(self, caller: Caller, name: Identifier, label: Identifier) -> None:
        """Delete a label. Without `production` agents use their prompt files again."""
        if label == PRODUCTION:
            PROTECT.check(caller)
        await self._find(caller, name, label=label)
        removed = PromptUnlabelled(name=name, label=label)
        await self._change(caller, removed, table.delete_label, name, label)

    async def _add(
        self, caller: Caller, name: str, change: PromptChange, *, is_new: bool, expected: Sequence[str] = ()
    ) -> PromptVersion:
        own, now = prompt_variables(self.mesh.get(AgentTypes)).get(name, ()), self.mesh.runtime.clock.now()
        row = prompt_row(caller.tenant_id, name, change, caller.requested_by, now, own)
        payload = PromptRegistered(name=name, digest=row.digest, author=row.author, message=row.message)
        event = self.mesh.event(payload, tenant_id=caller.tenant_id)
        limits = (self.config.max_prompts, self.config.max_versions)
        action, details = payload.event_type, {"digest": row.digest}
        async with self.mesh.get(Audit).change(caller, action, _subject(name), details):
            number = await self.mesh.write(table.add, event, row, limits, is_new=is_new, expected=expected)
        return PromptVersion.from_match(await self._find(caller, name, number))

    async def _change(
        self, caller: Caller, payload: _Change, write: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Make a change with the event that tells of it, and go by it in this process when this returns."""
        event = self.mesh.event(payload, tenant_id=caller.tenant_id)
        details = {key: value for key, value in payload.model_dump().items() if key != "name"}
        async with self.mesh.get(Audit).change(caller, payload.event_type, _subject(payload.name), details):
            await self.mesh.write(write, event, caller.tenant_id, *args, **kwargs)
        self._version += 1
        await self._refresh()

    async def _find(
        self, caller: Caller, name: str, version: int | None = None, label: str | None = None
    ) -> MatchedVersion:
        return await self.mesh.database.read(table.find, caller.tenant_id, name, version, label)


def _subject(name: str) -> str:
    return f"prompts/{name}"


def _summaries(caller: Caller, matches: Sequence[MatchedVersion]) -> list[PromptSummary]:
    """Versions as a caller may see them: a message may quote the text, so it takes the same roles."""
    summaries = [PromptSummary.from_match(match) for match in matches]
    if any(has_role(caller, role) for role in READ.roles):
        return summaries
    return [summary.model_copy(update={"message": ""}) for summary in summaries]

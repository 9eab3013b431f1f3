"""[tools] and [approvals]: limits of tools, and calls that wait for a person."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from meshwright.core.settings.forms import Table

Effect = Literal["read", "change", "run"]
"""The effect of a call: none, a change, or that of a program which runs in the sandbox."""


class ApprovalRule(Table):
    """One of [[approvals.rules]]: which calls of tools a person approves before they run.

    A rule is for the calls that fit all that it names; patterns are those of file names (`deploy_*`).
    """

    tool: str = Field(default="*", min_length=1)
    """Pattern of the tool's name."""
    arguments: Mapping[str, str] = {}
    """Patterns of arguments by their names: of a text as it is, of anything else as JSON. A call that has no
    such argument does not fit."""
    agent: str = Field(default="*", min_length=1)
    """Pattern of the id of the agent that calls it."""
    tenant: str = Field(default="*", min_length=1)
    """Pattern of the task's tenant."""
    effect: Effect | None = None
    """The effect of the tool: `read`, `change` or `run`; by default any."""
    after_outside: bool | None = None
    """`true`: for calls of a run that has read text from outside; `false`: of one that has not; by default
    of both."""
    ask: Literal["always", "never", "once"] = "always"
    """`always`: each call needs an approval; `once`: the first of the tool in a task; `never`: none does."""
    approvers: tuple[str, ...] = ()
    """The approvers: each a caller as its tasks are `requested_by` (the agent of its key, its name at the
    broker, `admin`). None named: every caller of the tenant, but never the agent that asks."""
    not_requester: bool = True
    """Whether the caller that requested the task may not approve its calls. It counts as soon as callers need
    credentials; before that the local user is everybody."""
    count: int = Field(default=1, ge=1, le=10)
    """How many callers have to approve. One denial is enough."""
    expires_days: float | None = Field(default=None, gt=0, le=3_650)
    """After how many days without an answer the call counts as denied; by default people.patience_days."""
    remind_seconds: float | None = Field(default=None, ge=0, le=31_536_000)
    """Seconds after which an approval that nobody has answered is reminded of. 0: never; by default
    people.remind_seconds."""
    then: tuple[str, ...] = ()
    """Callers who may approve as well after as many seconds more; by default people.then."""

    @model_validator(mode="after")
    def _enough_approvers(self) -> Self:
        if self.approvers and len(set(self.approvers)) < self.count:
            raise ValueError(f"count = {self.count} takes as many approvers, and names {len(self.approvers)}")
        return self


class ApprovalsSettings(Table):
    """[approvals]: which calls of tools wait for a person."""

    rules: tuple[ApprovalRule, ...] = ()
    """The first rule that fits a call counts."""
    after_outside: Literal["ask", "allow"] = "ask"
    """Changes after text of strangers: `ask` a person, or `allow` them."""


class ToolsSettings(Table):
    """Limits of tools. [tools.NAME] is for a toolset."""

    model_config = ConfigDict(extra="allow")

    workspace: Path = Path(".")
    """Folder that file and git tools may read."""
    allow_private_addresses: bool = False
    """Let agents fetch pages from private addresses."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Seconds of a call, where the tool names none."""

    @field_validator("workspace")
    @classmethod
    def _is_a_folder(cls, value: Path, info: ValidationInfo) -> Path:
        if info.context is not None and not (info.context["project"] / value).is_dir():
            raise ValueError("expected a folder that exists")
        return value

    @property
    def toolsets(self) -> dict[str, Mapping[str, Any]]:
        """The tables of toolsets, by name."""
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _others_are_tables(self) -> Self:
        for name, value in self.toolsets.items():
            if not isinstance(value, Mapping):
                fields = ", ".join(type(self).model_fields)
                raise ValueError(f"there is no setting {name!r} in [tools]; known are {fields}")
        return self

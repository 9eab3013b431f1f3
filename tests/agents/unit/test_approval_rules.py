"""Which calls of tools need an approval, what a person is shown of them, and what a decision holds for."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationError

from meshwright.agents.tools.approval import MARKED, ApprovalCall, may_need_approval, rule_for
from meshwright.agents.tools.functions import FunctionTool
from meshwright.agents.tools.settings import ApprovalRule, ApprovalsSettings
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.schema import faults, takes_approval
from meshwright.engine.work.people import Decision, marked
from meshwright.tools import Tool, ToolContext, tool
from tests.support.toolset_calls import LimitedTool

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@tool(needs_approval=True)
async def deploy(version: str, environment: Literal["test", "prod"] = "test", percent: int = 100) -> str:
    """Deploy a version."""
    return version


@tool
async def look(path: str) -> str:
    """Look at a file."""
    return path


class Foreign(Tool):
    """A tool of another system, described by its schema alone."""

    name = "transfer"
    description = "Transfers money.\nAt once."
    parameters: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {"to": {"type": "string"}, "dollars": {"type": "number", "default": 1}},
        "required": ["to"],
        "additionalProperties": False,
    }

    async def call(self, arguments: str, context: ToolContext) -> Any:
        return arguments


DEPLOY, LOOK = LimitedTool(FunctionTool(deploy), 60), LimitedTool(FunctionTool(look), 60)


def asked(rules: list[ApprovalRule], wanted: Tool, text: str, **whose: str) -> str | None:
    call = ApprovalCall.parse(wanted, text, "t1")
    settings = ApprovalsSettings(rules=tuple(rules))
    rule = rule_for(settings, call, **{"agent_id": "releaser", "tenant_id": "default", **whose})
    return None if rule is None else rule.ask


PROD = '{"version": "1.4", "environment": "prod"}'
TEST = '{"version": "1.4"}'


@pytest.mark.parametrize(
    ("rules", "wanted", "text", "expected"),
    [
        ([], DEPLOY, TEST, "always"),
        ([], LOOK, '{"path": "a"}', None),
        ([{"tool": "dep*", "ask": "never"}], DEPLOY, PROD, None),
        ([{"tool": "look", "ask": "once"}], LOOK, '{"path": "a"}', "once"),
        ([{"agent": "other"}], LOOK, '{"path": "a"}', None),
        ([{"tenant": "acme"}], LOOK, '{"path": "a"}', None),
        ([{"tool": "look", "arguments": {"path": "/etc/*"}}], LOOK, '{"path": "/etc/passwd"}', "always"),
        ([{"tool": "look", "arguments": {"path": "/etc/*"}}], LOOK, '{"path": "a"}', None),
        ([{"tool": "look", "arguments": {"nothing": "*"}}], LOOK, '{"path": "a"}', None),
        ([{"arguments": {"environment": "test"}, "ask": "never"}], DEPLOY, TEST, None),
        ([{"arguments": {"environment": "test"}, "ask": "never"}], DEPLOY, PROD, "always"),
        ([{"arguments": {"percent": "100"}, "ask": "once"}], DEPLOY, TEST, "once"),
        ([{"tool": "deploy", "ask": "never"}, {"tool": "*"}], DEPLOY, TEST, None),
    ],
)
def test_the_first_rule_that_fits_counts(
    rules: list[dict[str, Any]], wanted: Tool, text: str, expected: str | None
) -> None:
    made = [ApprovalRule.model_validate(rule) for rule in rules]
    assert asked(made, wanted, text) == expected
    if expected is not None:
        settings = ApprovalsSettings(rules=tuple(made))
        assert may_need_approval(settings, wanted, agent_id="releaser", tenant_id="default")


def test_a_rule_that_cannot_be_meant_is_refused() -> None:
    for wrong in ({"ask": "sometimes"}, {"tools": "deploy"}, {"expires_days": 0}, {"tool": ""}):
        with pytest.raises(ValidationError):
            ApprovalRule.model_validate(wrong)


def binds(wanted: Tool, text: str) -> str:
    return ApprovalCall.parse(wanted, text, "t1").binds


def test_a_hash_is_of_the_validated_arguments_with_their_defaults() -> None:
    assert binds(DEPLOY, '{"environment": "prod", "version": "1.4"}') == binds(DEPLOY, PROD)
    assert binds(DEPLOY, f"```json\n{PROD}\n```") == binds(DEPLOY, PROD)
    assert binds(DEPLOY, TEST) != binds(DEPLOY, PROD)
    assert ApprovalCall.parse(DEPLOY, TEST, "t1").arguments == {
        "version": "1.4",
        "environment": "test",
        "percent": 100,
    }


def test_a_changed_default_is_another_call() -> None:
    @tool(name="deploy")
    async def changed(version: str, environment: Literal["test", "prod"] = "prod", percent: int = 100) -> str:
        """Deploy a version."""
        return version

    assert binds(FunctionTool(changed), TEST) != binds(DEPLOY, TEST)


def test_a_tool_described_by_a_schema_is_checked_by_it() -> None:
    assert ApprovalCall.parse(Foreign(), '{"to": "ann"}', "t1").arguments == {"to": "ann", "dollars": 1}
    with pytest.raises(InvalidInput, match=r"dollars: must be a number"):
        ApprovalCall.parse(Foreign(), '{"to": "ann", "dollars": "all"}', "t1")


class Place(BaseModel):
    """A place, with those within it."""

    name: str
    within: "list[Place]" = []


def test_an_answer_may_have_the_arguments_that_the_tool_takes() -> None:
    @tool(needs_approval=True)
    async def move(to: Place, percent: Annotated[int, Field(le=100)] = 100) -> str:
        """Move there."""
        return to.name

    schema = ApprovalCall.parse(FunctionTool(move), '{"to": {"name": "a"}}', "t1").answer_schema
    assert takes_approval(schema)
    for arguments, field in (
        ({"to": {"name": "a", "within": [{"name": "b"}]}}, None),
        ({"to": {"name": "a", "within": [{"name": 1}]}}, "arguments.to.within.0.name"),
        ({"to": {"name": "a"}, "percent": 101}, "arguments.percent"),
        ({"to": {"name": "a"}, "other": 1}, "arguments.other"),
    ):
        found = faults(schema, {"approve": True, "arguments": arguments})
        assert [fault.path for fault in found] == ([field] if field else [])


@pytest.mark.parametrize(
    "properties",
    [
        {"to": {"type": "string", "description": "x" * 9_000}},
        {"to": {"type": "string"}, "other": {"$ref": "#/properties/to"}},
    ],
    ids=["too long for a question", "with references that would lead elsewhere"],
)
def test_an_answer_may_have_any_object_where_a_schema_does_not_fit(properties: dict[str, Any]) -> None:
    class Other(Foreign):
        parameters: ClassVar[dict[str, Any]] = {"type": "object", "properties": properties}

    schema = ApprovalCall.parse(Other(), '{"to": "ann"}', "t1").answer_schema
    assert not faults(schema, {"approve": True, "arguments": {"to": 1, "other": 2}})
    [fault] = faults(schema, {"approve": True, "arguments": "ann"})
    assert fault.path == "arguments"


def test_secrets_are_hidden_from_the_question_but_not_from_the_hash() -> None:
    @tool(needs_approval=True)
    async def login(user: str, password: SecretStr, note: str = "") -> str:
        """Log in."""
        return user

    one, other = (
        f'{{"user": "ann", "password": "{word}", "note": "x"}}' for word in ("hunter22", "hunter33")
    )
    assert binds(FunctionTool(login), one) != binds(FunctionTool(login), other)
    call = ApprovalCall.parse(
        FunctionTool(login), one.replace('"x"', '"sk-abcdefgh1234567890abcdefgh"'), "t1"
    )
    subject, whole = marked(call.subject("a", ApprovalRule()), MARKED)
    shown = f"{subject} {call.question('a', 'use password=hunter22hunter')}"
    assert whole["arguments"]["note"] == "sk-abcdefgh1234567890abcdefgh"
    assert "hunter22" not in shown and "sk-abcdefgh" not in shown and "ann" in shown


def test_the_question_says_who_what_and_why() -> None:
    question = ApprovalCall.parse(DEPLOY, PROD, "t1").question("releaser", "Ship 1.4\nplease")
    assert question == (
        'releaser wants to run deploy(version="1.4", environment="prod", percent=100), '
        'to do this task: "Ship 1.4 please". May it?'
    )
    long = ApprovalCall.parse(LOOK, f'{{"path": "{"a/" * 5000}"}}', "t1")
    assert "10,007 characters of path: the inbox" in (asked := long.question("releaser", "b" * 5000))
    assert len(asked) < 1000 and long.subject("releaser", ApprovalRule())["arguments"] == {
        "path": "a/" * 5000
    }


@pytest.mark.parametrize(
    ("changes", "later", "told"),
    [
        ({}, 0, None),
        ({"approve": False, "reason": "too late"}, 0, "ann denied it: too late"),
        ({"approve": False, "decided_by": ""}, 0, "it was not approved in time"),
        ({"binds": "other"}, 0, "ann approved it with other arguments"),
        ({}, 8, "its approval has expired"),
    ],
)
def test_a_decision_holds_for_one_call_for_some_time(
    changes: dict[str, Any], later: int, told: str | None
) -> None:
    call = ApprovalCall.parse(DEPLOY, PROD, "t1")
    known = {"approve": True, "decided_by": "ann", "binds": call.binds, "expires_at": NOW + timedelta(days=7)}
    decision = Decision(**{**known, **changes})
    check: Callable[[], None] = lambda: decision.check("deploy", call.binds, NOW + timedelta(days=later))  # noqa: E731
    if told is None:
        check()
    else:
        with pytest.raises(ToolFailed, match=told):
            check()

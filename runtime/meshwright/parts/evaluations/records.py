"""Evaluations as callers send them and are shown them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, FiniteFloat, model_validator

from meshwright.kit import Amount, Budget, Dollars, Identifier, Input, Struct, TaskStatus

JUDGE = "judge"
"""The agent that judges where no other is named."""
Value = Annotated[str, Field(min_length=1, max_length=128)]
Label = FiniteFloat | bool
Kind = Literal["metric", "score", "preference"]


class Criterion(Input):
    """A criterion that a judge goes by: a name, and what it means where that does not say it."""

    name: Identifier
    description: str = Field(default="", max_length=2_000)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """Criteria as an object of names and descriptions, which may be any JSON, as a list."""
    if not isinstance(value, dict):
        return value
    criteria = []
    for name, meaning in value.items():
        text = meaning if isinstance(meaning, str) else json.dumps(meaning, ensure_ascii=False)
        criteria.append({"name": name, "description": text})
    return criteria


class JudgeRequest(Input):
    """The judge: an agent, `judge` if none is named, with another group of models if `model` says one.

    Each of `votes` is a task of its own, and their median counts. With `pairwise` it compares each `output`
    with `other`, once in each order. A label of true or false is compared with whether the score reaches
    `pass_score`.
    """

    agent_id: Identifier = JUDGE
    model: str | None = Field(default=None, min_length=1, max_length=200)
    votes: int = Field(default=1, ge=1, le=9)
    pairwise: bool = False
    allow_same_model: bool = False
    pass_score: float = Field(default=5.0, ge=0, le=10)


class Item(Input):
    """An answer to evaluate, or without an `output` a request that an agent is to answer first.

    `label` is a person's: a score, true or false, or one for each criterion; of two answers 1 where `output`
    is better, 0 where `other` is, 0.5 for neither. `model` names the group of models of the answer's author.
    An `input` that is an object is the payload of the request.
    """

    input: str | dict[str, Any] = ""
    output: str | None = None
    other: str | None = None
    context: str | None = None
    expected: str | None = None
    label: Label | dict[Identifier, Label] | None = None
    model: str | None = Field(default=None, max_length=200)


class TaskSelection(Input):
    """Tasks as `GET /tasks` finds them, the newest first."""

    agent_id: Identifier | None = None
    capability: Identifier | None = None
    thread_id: Identifier | None = None
    requested_by: Value | None = None
    model: Value | None = None
    prompt: Value | None = None
    error: Value | None = None
    text: Value | None = None
    status: TaskStatus | None = None
    since: Value | None = None
    until: Value | None = None
    limit: int = Field(default=100, ge=1, le=500)


class Data(Input):
    """Items, or the requests and answers of `tasks` that succeeded, or the requests of those that failed."""

    items: list[Item] | None = Field(default=None, min_length=1)
    tasks: TaskSelection | None = None
    failures: TaskSelection | None = None

    @model_validator(mode="after")
    def _one(self) -> Data:
        if sum(part is not None for part in (self.items, self.tasks, self.failures)) != 1:
            raise ValueError("give one of items, tasks and failures")
        return self


class Plan(Input):
    """How items are evaluated: by criteria that a judge goes by, and by metrics.

    `agent_id` answers the items without an output. `budget_usd` bounds each task that is made.
    """

    name: str = Field(default="", max_length=200)
    agent_id: Identifier | None = None
    criteria: Annotated[
        list[Annotated[Criterion, BeforeValidator(_named)]],
        Field(
            default_factory=list,
            max_length=10,
            validation_alias=AliasChoices("criteria", "expected_criteria"),
        ),
        BeforeValidator(_listed),
    ]
    metrics: list[Identifier] = Field(default_factory=list, max_length=20)
    judge: JudgeRequest = JudgeRequest()
    budget_usd: Dollars | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Plan:
        names = [*(criterion.name for criterion in self.criteria), *self.metrics]
        if not names:
            raise ValueError("it has neither criteria nor metrics")
        if len({*names}) < len(names):
            raise ValueError("two of its criteria and metrics have the same name")
        return self


class EvaluationRequest(Plan):
    """An evaluation to make. With an id of your own, a repeat is refused as a conflict.

    A `response` is the one answer to evaluate, in place of `data`; `criteria` may be an object of names and
    descriptions, and may be called `expected_criteria`.
    """

    evaluation_id: Identifier | None = None
    data: Data | None = None
    response: str | None = None

    @model_validator(mode="after")
    def _one(self) -> EvaluationRequest:
        if (self.data is None) == (self.response is None):
            raise ValueError("give either data or a response")
        return self

    @property
    def answers(self) -> Data:
        """The answers, or the requests, to evaluate."""
        return self.data or Data(items=[Item(output=self.response)])


class Spec(Plan):
    """An evaluation as it is kept: for whom its tasks are, and which budgets pay.

    `run_id` begins their idempotency keys: an id of a caller may be used again.
    """

    run_id: str
    requested_by: str
    budgets: tuple[Budget, ...] = ()


class ItemState(BaseModel):
    """The facts of an item: the model of its author, its task, and the labels of people."""

    label: Label | dict[str, Label] | None = None
    model: str | None = None
    task_id: str | None = None


class Judgement(BaseModel):
    """The figure of an item by a criterion, the median of its `votes`; None where no vote was valid.

    `same_model` says that the model which judged wrote the answer, `disagreed` that the order of two answers
    decided a vote.
    """

    value: float | None = None
    votes: list[float] = []
    failed: int = 0
    same_model: bool = False
    disagreed: bool = False


class ItemFigures(BaseModel):
    """The figures of an item. `cost_usd` is None where a price is unknown; `error` is its failure's type."""

    metrics: dict[str, float | None] = {}
    criteria: dict[str, Judgement] = {}
    cost_usd: Amount | None = None
    tasks: list[str] = []
    error: str | None = None


class ItemTexts(BaseModel):
    """The texts of an item, and the reasons of its judges by criterion."""

    input: str = ""
    output: str | None = None
    other: str | None = None
    context: str | None = None
    expected: str | None = None
    payload: dict[str, Any] | None = None
    reasons: dict[str, list[str]] = {}


class EvaluationItem(BaseModel):
    """An item, with its texts for a caller who sees contents, unless they were erased."""

    number: int
    status: Literal["open", "done", "failed"]
    task_id: str | None = None
    label: Label | dict[str, Label] | None = None
    figures: ItemFigures | None = None
    texts: ItemTexts | None = None


class EvaluationItemPage(BaseModel):
    """Some items in their order; `cursor` asks for those that follow."""

    items: list[EvaluationItem]
    cursor: int | None = None


class EvaluationFigure(Struct):
    """A metric or a criterion over all items: the mean of `count` values; `missing` items have none.

    `kappa` is Cohen's, with quadratic weights, between the judge and the labels of `labelled` items; None
    where it is not defined.
    """

    schema_name = "Figure"
    name: str
    kind: Kind
    mean: float | None = None
    lowest: float | None = None
    highest: float | None = None
    count: int = 0
    missing: int = 0
    labelled: int = 0
    kappa: float | None = None
    same_model: int = 0
    disagreed: int = 0


class EvaluationSummary(BaseModel):
    """An evaluation, and how far it is: `done` of its `items`, of which `failed` have no answer.

    `cost_usd` is that of its tasks so far, None where a price is unknown.
    """

    evaluation_id: str
    name: str
    status: Literal["running", "done"]
    items: int
    done: int
    failed: int
    cost_usd: Amount | None = None
    requested_by: str
    created_at: datetime
    ended_at: datetime | None = None


class EvaluationView(EvaluationSummary):
    """An evaluation with its plan and its figures so far. `warnings` say what to keep in mind."""

    agent_id: str | None = None
    criteria: list[Criterion]
    metrics: list[str]
    judge: JudgeRequest
    figures: list[EvaluationFigure]
    warnings: list[str] = []


class EvaluationPage(BaseModel):
    """Some evaluations, the newest first; `cursor` asks for those before."""

    items: list[EvaluationSummary]
    cursor: str | None = None

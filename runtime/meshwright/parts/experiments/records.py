"""Experiments as callers send them and are shown them, and as they are stored."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from meshwright.kit import Amount, Dollars, Identifier, Input, TaskVariant, encode
from meshwright.parts.llmops.records import Version

SUCCESS = "success"
LOWER_IS_BETTER = ("retries", "model_calls", "tokens", "cost_usd", "duration_seconds", "approvals_denied")
METRICS = (SUCCESS, *LOWER_IS_BETTER)
"""The metrics that each task has; any other name is that of a score, of which more is better."""
_MAX_VARIANTS = 10
_MAX_PARAMS = 4_096  # bytes of JSON: every task carries them
_SHARE = 0.1  # the difference of success that is looked for by default

Unit = Literal["thread", "requester"]
Over = Literal["tasks", "inputs"]
Status = Literal["created", "running", "stopped"]
Action = Literal["stop", "rollback"]


def _storable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be printable text on one line")
    return text


def _small(params: dict[str, Any]) -> dict[str, Any]:
    if len(encode(params)) > _MAX_PARAMS:
        raise ValueError(f"they must not be longer than {_MAX_PARAMS:,} bytes of JSON")
    return params


Title = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_storable)]
Tag = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_storable)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class VariantSpec(Input):
    """A variant: which share of the tasks gets it, and what it changes. Fields left out change nothing.

    `version` is one of the agent's registered prompt, `model` a group of models, `params` more parameters of
    the model calls, `runs_as` an agent that does the tasks in its place.
    """

    name: Identifier
    weight: float = Field(default=1.0, gt=0, le=1_000)
    version: Version | None = None
    model: Title | None = None
    tags: list[Tag] | None = Field(default=None, max_length=20)
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    params: Annotated[dict[str, Any], AfterValidator(_small)] = Field(default_factory=dict)
    runs_as: Identifier | None = None

    def task_variant(self, experiment_id: str, agent_id: str) -> TaskVariant:
        """The variant as tasks carry it."""
        fields = self.model_dump(exclude={"weight", "tags"})
        tags = None if self.tags is None else tuple(self.tags)
        return TaskVariant(experiment=experiment_id, agent_id=agent_id, tags=tags, **fields)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class ExperimentGuard(Input):
    """Stops the experiment where a variant is surely too bad: `worse_by` as against the first variant, or
    beyond `bound`, in the unit of the metric."""

    metric: Identifier = SUCCESS
    worse_by: Annotated[Finite, Field(ge=0)] | None = None
    bound: Finite | None = None
    action: Action = "stop"

    @model_validator(mode="after")
    def _one(self) -> ExperimentGuard:
        if (self.worse_by is None) == (self.bound is None):
            raise ValueError("give either worse_by or bound")
        return self


class ExperimentRequest(Input):
    """An experiment on an agent. The first variant is the one that the others are compared with.

    Tasks of one `unit` get the same variant. `minimum_difference` is the smallest difference of the metric
    that matters, in its unit.
    """

    name: Title = Field(description="A name for people.")
    agent_id: Identifier = Field(
        description="The agent that is tried. The `version` of a variant is one of its registered prompt."
    )
    variants: list[Annotated[VariantSpec, BeforeValidator(_named)]] = Field(
        min_length=2, max_length=_MAX_VARIANTS, description="Two or more, each an object or its name alone."
    )
    unit: Unit = "thread"
    metric: Identifier = SUCCESS
    minimum_difference: Annotated[Finite, Field(gt=0)] | None = None
    guard: ExperimentGuard | None = None

    @model_validator(mode="after")
    def _fits(self) -> ExperimentRequest:
        if len({variant.name for variant in self.variants}) < len(self.variants):
            raise ValueError("two variants have the same name")
        if self.minimum_difference is None and self.metric != SUCCESS:
            raise ValueError(f"minimum_difference is missing: the smallest difference of {self.metric}")
        return self

    @property
    def difference(self) -> float:
        """The smallest difference that matters."""
        return self.minimum_difference or _SHARE

    @property
    def agents(self) -> set[str]:
        """The agents whose tasks count: that of the experiment, and those in its place."""
        return {self.agent_id, *(variant.runs_as for variant in self.variants if variant.runs_as)}


class ExperimentState(BaseModel):
    """When, by whom and why it was made, started and stopped. `action` is that of the guard."""

    created_at: datetime
    created_by: str
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    stopped_by: str | None = None
    reason: str | None = None
    action: Action | None = None


class Experiment(ExperimentRequest):
    """An experiment. It `runs_over` live tasks or over inputs, from the first time that it was run."""

    experiment_id: str
    status: Status
    runs_over: Over | None = None
    created_at: datetime
    created_by: str
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    stopped_by: str | None = None
    reason: str | None = None
    action: Action | None = None


class ExperimentPage(BaseModel):
    """Some experiments, the newest first; `cursor` asks for those before."""

    items: list[Experiment]
    cursor: str | None = None


class ExperimentRunRequest(Input):
    """Without inputs the experiment begins to choose variants for live tasks.

    With inputs, the payloads of tasks, each variant gets each of them `repeats` times, at once.
    """

    inputs: list[dict[str, Any]] | None = Field(default=None, min_length=1, max_length=10_000)
    repeats: int = Field(default=1, ge=1, le=100)
    budget_usd: Dollars | None = Field(default=None, description="Bounds each of these tasks.")


class ExperimentRun(BaseModel):
    """A run: the experiment, and the tasks that were submitted for inputs."""

    experiment: Experiment
    task_ids: list[str] = []


class ExperimentFigures(BaseModel):
    """A metric of a variant: its mean with the 95 % interval, over `count` threads or requesters.

    `difference` is that from the first variant, with an interval and a p-value that hold however often you
    look; both are None below 20 of each.
    """

    metric: str
    variant: str
    count: int
    mean: float
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None


class VariantResult(BaseModel):
    """A variant: its tasks that have ended and that are open, their exact cost, and what is known of it.

    `unpriced` tasks have a cost that is not known. `verdict` is None until the metric of the experiment is
    surely better, worse, or no further from the first variant's than the smallest difference that matters.
    `missing` is how many more of its unit it takes to find that difference; None while that is not known.
    """

    variant: str
    ended: int
    open: int
    cost_usd: Amount
    unpriced: int
    verdict: Literal["better", "worse", "same"] | None = None
    missing: int | None = None


class ExperimentResults(BaseModel):
    """The results of an experiment, as they are now."""

    experiment: Experiment
    variants: list[VariantResult]
    figures: list[ExperimentFigures]

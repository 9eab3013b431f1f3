"""Who is asked next: the fallbacks of the file, followed from error to error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from meshwright.errors import ModelError
from meshwright.models.config import LiteLLMConfig
from meshwright.models.port import ContentRefused, ContextTooLong, ModelRequest
from meshwright.models.routing import deployments_of, next_groups, route

MEND = "fallbacks"


class Step(NamedTuple):
    """Deployments that are asked together: a group's, or those of it with one `order`."""

    group: str
    order: int | None = None


class Fallbacks:
    """The fallbacks of a file, given the deployments of it that can be called."""

    def __init__(
        self, config: LiteLLMConfig, environment: Mapping[str, str], usable: Iterable[Mapping[str, Any]]
    ) -> None:
        self._config = config
        self._environment = environment
        self.use(usable)

    def use(self, deployments: Iterable[Mapping[str, Any]]) -> None:
        """Count these deployments alone among those that can be called."""
        self._usable = {each["model_info"]["id"] for each in deployments}

    def can_call(self, group: str) -> bool:
        """Whether any deployment of a group can be called."""
        deployments = deployments_of(self._config, group) or ()
        return any(each["model_info"]["id"] in self._usable for each in deployments)

    def after(self, step: Step, error: ModelError, request: ModelRequest, seen: set[str]) -> list[Step]:
        """Who is asked after an error: the group's next order, then its fallbacks for this kind of error.

        Groups that were `seen` are not asked again, and those that are returned are added to them.
        """
        kind = kind_of(error)
        if kind == MEND and not error.retryable and self.can_call(step.group):
            return []
        orders = self._orders_after(step, request) if kind == MEND else []
        groups = [each for each in next_groups(self._config, step.group, kind) if each not in seen]
        seen.update(groups)
        return [*orders, *map(Step, groups)]

    def _orders_after(self, step: Step, request: ModelRequest) -> list[Step]:
        if step.order is not None:  # its siblings wait already
            return []
        asked = route(self._config, self._environment, step.group, request.tags).asked
        orders = sorted({each.order for each in asked if each.order is not None})
        return [Step(step.group, order) for order in orders[1:]]


def kind_of(error: ModelError) -> str:
    """The kind of fallbacks in the file that an error leads to."""
    if isinstance(error, ContextTooLong):
        return "context_window_fallbacks"
    return "content_policy_fallbacks" if isinstance(error, ContentRefused) else MEND

"""Looks before the start whether hard budgets let the agents' first calls through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from meshwright import Agent, ChatMessage
from meshwright.agents.loader import asks_model
from meshwright.agents.prompts import PromptSources
from meshwright.component import ModelRequest
from meshwright.core.part import Caution
from meshwright.engine.work.protocol import DEFAULT_TENANT
from meshwright.kit import ZERO, Budget, ConfigError, dollars
from meshwright.models.port import CallContext, PriceList
from meshwright.models.usage import max_prompt_tokens
from meshwright.money.account import Account
from meshwright.money.budgets import SET_PRICE
from meshwright.money.charging import charged_accounts


class _FirstCall(NamedTuple):
    """The first call of an agent, as far as it is known, and the accounts of hard budgets that it asks."""

    agent: type[Agent]
    request: ModelRequest
    accounts: Sequence[Account]


class FirstCalls:
    """The first calls of agents, compared with hard `budgets` before any is made."""

    def __init__(
        self,
        budgets: Sequence[Budget],
        agents: Sequence[type[Agent]],
        prompts: PromptSources,
        prices: PriceList,
    ) -> None:
        self._budgets = budgets
        self._agents = agents
        self._prompts = prompts
        self._prices = prices

    async def check(self) -> str:
        """Which budgets there are. Raises ConfigError where one refuses every call of an agent."""
        for refusal in self.refusals():
            raise refusal
        for agent, request, accounts in self._calls():
            tokens = max_prompt_tokens(request)
            price = self._prices.upper_bound(request, tokens)
            most = ZERO if price is None else price.cost(tokens, request.output_limit)
            for account in accounts:
                if most > account.limit_usd:
                    limit = f"{account.budget} allows {dollars(account.limit_usd)}"
                    call = f"the first call of {agent.agent_id} may cost {dollars(most)}"
                    return Caution(f"{limit}, and {call}: raise the budget, or lower max_tokens")
        return f"{', '.join(budget.name for budget in self._budgets)}: a first call of each agent fits"

    def refusals(self) -> list[ConfigError]:
        """Errors of budgets that refuse every call of an agent, since its model has no price.

        An agent whose code shows no call of a model may make some by a framework: it counts where no other
        agent's model has a price.
        """
        refusals: list[ConfigError] = []
        uncertain: list[ConfigError] = []
        is_any_priced = False
        for agent, request, accounts in self._calls():
            if self._prices.upper_bound(request) is not None:
                is_any_priced = True
            elif accounts:
                model = self._prices.called_model(request)
                problem = f"Budget {accounts[0].budget} is hard, and model {model!r} has no price"
                problem += f": every call of {agent.agent_id} is refused"
                refusal = ConfigError(problem, remedy=SET_PRICE)
                (refusals if asks_model(agent) else uncertain).append(refusal)
        return refusals if is_any_priced else [*refusals, *uncertain]

    def _calls(self) -> Iterator[_FirstCall]:
        names = {*self._prompts.names()}
        context = CallContext(tenant_id=DEFAULT_TENANT, task_id="first", thread_id="first")
        for agent in self._agents:
            request = ModelRequest(messages=(), user=agent.agent_id, context=context)
            if agent.prompt in names:
                prompt = self._prompts.resolve(agent.prompt)
                system = ChatMessage(role="system", content=prompt.body)
                known = {"model": prompt.model, "tags": prompt.tags, "max_tokens": prompt.max_tokens}
                request = request.model_copy(update={**known, "messages": (system,)})
            if agent.model:
                request = request.model_copy(update={"model": agent.model})
            yield _FirstCall(agent, request, charged_accounts(request, self._budgets))

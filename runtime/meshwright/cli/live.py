"""One real call of each agent's model, through the ledger: the answer of `mesh check --live`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from meshwright.console.connect import in_process, running_mesh
from meshwright.core.display import dollars
from meshwright.core.errors import MeshError, in_one_line
from meshwright.core.model_events import ModelCalled

if TYPE_CHECKING:
    from meshwright.agents.agent import Agent
    from meshwright.client import Client
    from meshwright.core.settings import Settings
    from meshwright.money.budgets import BudgetView

_AT_ONCE = 4
_SECONDS = 60.0
_MAX_TOKENS = 16
_LAST_CALLS = 200
_RENEWALS = {"hour": "this hour's budget", "day": "today's budget", "month": "this month's budget"}


class LiveAnswer(NamedTuple):
    """Whether an agent's model answers, in a sentence."""

    verdict: str
    """`ok`, `warn` or `FAIL`."""
    sentence: str
    """The model, the cost and what the budgets allow, or the failure and its remedy."""


async def try_agents(settings: Settings) -> list[LiveAnswer]:
    """Call the model of each agent once, for at most 16 tokens of output, charged to the agent.

    The mesh that runs on the data makes the calls, else one in this process that begins no task. Raises
    MeshError where neither can be asked.
    """
    requests, others = _requests(settings)
    async with running_mesh(settings) as running:
        if running is not None:
            answers = await _try_all(running.client, requests)
        else:
            async with in_process(settings, "change") as own:
                answers = await _try_all(own.client, requests)
    if others:
        names = ", ".join(others)
        answers.append(LiveAnswer("ok", f"{names}: not tried, since no call of a model shows in the code"))
    return answers


def _requests(settings: Settings) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The body of a call for each agent that asks a model, and the names of the others."""
    from meshwright.agents.loader import asks_model, prompt_variables, prompts_folder
    from meshwright.agents.prompts import Prompts, PromptSources
    from meshwright.mesh.app import load_agents

    agents = load_agents(settings, Path())
    own = Prompts(prompts_folder(Path(), settings), own=prompt_variables(agents))
    prompts = PromptSources([own])
    asking = [agent for agent in agents if asks_model(agent)]
    others = [agent.agent_id for agent in agents if agent not in asking]
    return {agent.agent_id: _body(agent, prompts) for agent in asking}, others


def _body(agent: type[Agent], prompts: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Say ok"}],
        "user": agent.agent_id,
        "max_tokens": _MAX_TOKENS,
    }
    model = agent.model
    if agent.prompt in prompts.names():
        prompt = prompts.resolve(agent.prompt)
        model = model or prompt.model
        body["tags"] = list(prompt.tags)
    return {**body, "model": model or "default"}


async def _try_all(client: Client, requests: dict[str, dict[str, Any]]) -> list[LiveAnswer]:
    places = asyncio.Semaphore(_AT_ONCE)

    async def call(agent_id: str) -> Any:
        async with places:
            try:
                return await _call(client, requests[agent_id])
            except (MeshError, TimeoutError) as error:
                return error

    replies = await asyncio.gather(*map(call, requests))
    costs, budgets = await _last_costs(client), await client.budgets()
    answers: list[LiveAnswer] = []
    for agent_id, reply in zip(requests, replies, strict=True):
        if isinstance(reply, TimeoutError):
            what = f"{requests[agent_id]['model']} gave no answer in {_SECONDS:g} s"
            answers.append(LiveAnswer("FAIL", f"{agent_id} cannot answer: {what}; see mesh models test"))
        elif isinstance(reply, MeshError):
            why = in_one_line(str(reply.message), reply.remedy)
            answers.append(LiveAnswer("FAIL", f"{agent_id} cannot answer: {why}"))
        else:
            answers.append(await _describe(client, agent_id, reply["model"], costs.get(agent_id), budgets))
    return answers


async def _call(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    """Make a call. Raises MeshError with the words of a refusal, TimeoutError."""
    async with asyncio.timeout(_SECONDS):
        async with client.open("POST", "/v1/chat/completions", body=body) as response:
            text = b"".join([chunk async for chunk in response.chunks])
    reply = json.loads(text)
    if response.status == 200:
        return dict(reply)
    error = reply.get("error") or {}
    raise MeshError(str(error.get("message") or f"the mesh answered {response.status}"))


async def _last_costs(client: Client) -> dict[str, Decimal | None]:
    """The cost of each agent's last call, which is the one just made."""
    events = await client.events(limit=_LAST_CALLS, event_type=ModelCalled.event_type)
    calls = [call for event in events if (call := ModelCalled.read(event)) is not None]
    return {call.user: call.cost_usd for call in calls}


async def _describe(
    client: Client, agent_id: str, model: str, cost: Decimal | None, budgets: Sequence[BudgetView]
) -> LiveAnswer:
    estimate = await client.estimate(agent_id=agent_id)
    task_cost, what = estimate.median_usd, "a task"
    if task_cost is None:
        task_cost, what = cost, "for this call, no task has ended yet"
    head = f"{agent_id} can answer: {model}"
    charged = _agent_budgets(agent_id, budgets)
    if task_cost is None:
        remedy = "set [ledger.default_price] in mesh.toml"
        if any(budget.hard for budget in charged):
            return LiveAnswer("warn", f"{head}, at a price that the budgets only guess: {remedy}")
        return LiveAnswer("ok", f"{head}, at an unknown price: {remedy}")
    parts = [head, f"{dollars(task_cost)} {what}"]
    limits = [
        ((budget.limit_usd - budget.spent_usd - budget.reserved_usd) // task_cost, budget)
        for budget in charged
        if task_cost > 0
    ]
    if limits:
        count, budget = min(limits, key=lambda limit: limit[0])
        unit = "tasks" if estimate.median_usd is not None else "such calls"
        parts.append(
            f"{max(int(count), 0):,} {unit} in {_RENEWALS.get(budget.window, f'budget {budget.budget}')}"
        )
    return LiveAnswer("ok", ", ".join(parts))


def _agent_budgets(agent_id: str, budgets: Iterable[BudgetView]) -> list[BudgetView]:
    """The accounts that each task of an agent is charged to."""
    return [
        budget
        for budget in budgets
        if budget.scope == "mesh" or (budget.scope == "agent" and budget.key.split("/")[-1] == agent_id)
    ]

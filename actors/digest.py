"""digest-agent: says what happened in the mesh, what waits for a person, and what it cost."""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from meshwright import Agent, Capability, Run, Task, ToolFailed, tool
from meshwright.tools import ToolContext

DAY_HOURS = 24.0
MAX_HOURS = 24.0 * 31
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
ASK = "Say in at most three sentences what of this needs attention first, and why. Name task and agent."


class DigestAgent(Agent):
    """Digests the last day of its tenant, in text. Every number comes from the event log, none from a model.

    A task for its capability `mesh-activity` is a question about the same, which a model answers with tools.
    """

    agent_id = "digest-agent"
    capabilities = (Capability("daily-digest", preferred=True), Capability("mesh-activity"))
    remembers = False
    reads_log = True

    async def run(self, run: Run) -> str:
        """Write the digest, and have a model say what matters where something failed or waits."""
        if run.task.capability == "mesh-activity":
            return await run.converse()
        hours = hours_of(run.task)
        activity = await run.step("activity", lambda: read(run, hours))
        digest = text_of(activity)
        if not (activity["failed"] or activity["waiting"]["items"]):
            return digest
        lead = await run.ask(f"{run.task.text or ASK}\n\n{digest}")
        return f"{lead}\n\n{digest}" if rests_on(lead, activity, digest) else digest

    @tool(idempotent=True, effect="read")
    async def tasks_ended(self, context: ToolContext, hours: float = DAY_HOURS) -> dict[str, Any]:
        """Count the tasks that ended in the last hours by agent and outcome, and list those that failed.

        Args:
            hours: how far back, up to a month
        """
        activity = await read(context, hours)
        return {name: activity[name] for name in ("ended", "failed", "open", "dead_letters")}

    @tool(idempotent=True, effect="read")
    async def waiting_for_people(self, context: ToolContext) -> list[dict[str, Any]]:
        """List the questions and approvals that tasks wait for."""
        return (await read(context, DAY_HOURS))["waiting"]["items"]

    @tool(idempotent=True, effect="read")
    async def costs_by_agent(self, context: ToolContext, hours: float = DAY_HOURS) -> list[dict[str, Any]]:
        """Sum up what the calls of models cost in the last hours, agent by agent.

        Args:
            hours: how far back, up to a month
        """
        return (await read(context, hours))["costs"]["items"]


async def read(context: ToolContext, hours: float) -> dict[str, Any]:
    """What happened in the hours before the task was made, as plain data."""
    if not 0 < hours <= MAX_HOURS:
        raise ToolFailed(
            f"{hours} hours cannot be digested", remedy=f"Give more than 0, at most {MAX_HOURS:g}"
        )
    activity = await context.activity(context.task.created_at - timedelta(hours=hours))
    return activity.model_dump(mode="json")


def rests_on(lead: str, activity: dict[str, Any], digest: str) -> bool:
    """Whether what a model wrote names a task or an agent of the digest, and no number that is not in it."""
    listed = (*activity["failed"], *activity["waiting"]["items"])
    names = {str(entry[name]) for entry in listed for name in ("task_id", "agent_id")}
    return any(name in lead for name in names) and set(NUMBER.findall(lead)) <= set(NUMBER.findall(digest))


def hours_of(task: Task) -> float:
    """How far back a task looks: `payload.hours`, or a day."""
    hours = task.payload.get("hours", DAY_HOURS)
    if isinstance(hours, bool) or not isinstance(hours, (int, float)):
        raise ToolFailed("payload.hours is no number", remedy="Give hours, such as 72")
    return float(hours)


def text_of(activity: dict[str, Any]) -> str:
    """The digest as text."""
    agents, waiting, costs = activity["ended"], activity["waiting"]["items"], activity["costs"]
    outcomes = Counter[str]()
    for of_agent in agents.values():
        outcomes.update(of_agent)
    still = activity["open"] - 1  # but for the one that writes this
    lines = [f"Digest from {clock(activity['since'])} to {clock(activity['until'])} UTC", ""]
    lines.append(f"What happened: {counted(outcomes) or 'no task ended'}; {still:,} open now")
    lines += [f"  {agent}: {counted(agents[agent])}" for agent in agents]
    if activity["dead_letters"]:
        lines.append(f"  given up, whatever agent tried: {activity['dead_letters']:,}")
    if activity["failed"]:
        lines += ["", "What failed:"]
    for task in activity["failed"]:
        lines.append(f"  {task['task_id']} ({task['agent_id']}): {short(task['reason'])}")
    more = " or more" if activity["waiting"]["cursor"] else ""
    lines += ["", f"What waits for you: {len(waiting):,}{more}"]
    for asked in waiting:
        who = f"{asked['task_id']} ({asked['agent_id']}), since {clock(asked['since'])}"
        lines.append(f"  {who}: {short(asked['question'])}")
    for part, count in activity.get("decisions", {}).items():
        lines.append(f"  {part}: {count:,} to decide on, mesh inbox lists them")
    unknown = costs["total"]["unpriced"]
    cost = (
        f"{dollars(costs['total'])}; the cost of {unknown:,} is unknown"
        if unknown
        else dollars(costs["total"])
    )
    lines += ["", f"What it cost: {cost}", *(f"  {cost['key']}: {dollars(cost)}" for cost in costs["items"])]
    return "\n".join(lines)


def counted(outcomes: Mapping[str, int]) -> str:
    """Counts by outcome, the most frequent first."""
    ordered = sorted(outcomes.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in ordered)


def clock(time: str) -> str:
    """A time in minutes."""
    return time[:16].replace("T", " ")


def dollars(cost: dict[str, Any]) -> str:
    """What some calls came to, in four digits behind the point."""
    calls = "1 call" if cost["calls"] == 1 else f"{cost['calls']:,} calls"
    return f"${float(cost['cost_usd'] or 0):,.4f} for {calls}"


def short(text: str | None) -> str:
    """The beginning of a text, on one line."""
    line = " ".join((text or "no reason is known").split())
    return line if len(line) <= 160 else f"{line[:157]}..."

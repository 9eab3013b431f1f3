"""cost-tracker: says what the mesh spends and whether that is unusual. Code computes every figure."""

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from meshwright import Agent, Capability, ModelError, Run, Task, ToolFailed
from meshwright.toolsets.kube import KubeReadTools
from meshwright.toolsets.money import MoneyTools
from meshwright.toolsets.observe import ObserveReadTools

DAYS = 7.0
MAX_DAYS = 93.0
PERIODS_BEFORE = 4
UNUSUAL = 2  # times the average of the periods before
NEARLY_USED = Decimal("0.8")  # of a budget
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
ASK = (
    "Say in at most three sentences what of this deserves attention first, and one proposal if there is one."
)


class CostTracker(Agent):
    """Reports the costs of its tenant, and what of them is unusual, in text. Code computes every figure.

    A task for `usage-analysis` is a question about the same, which a model answers with tools.
    """

    agent_id = "cost-tracker"
    capabilities = (
        Capability("cost-reporting", preferred=True),
        Capability("usage-analysis"),
        Capability("spend-alerting", preferred=True),
    )
    toolsets = (MoneyTools, KubeReadTools, ObserveReadTools)
    remembers = False
    reads_log = True

    async def run(self, run: Run) -> str:
        """Compute the figures, and have a model say what matters where money was spent."""
        capability = run.task.capability
        if capability == "usage-analysis":
            return await run.converse()
        days = days_of(run.task)
        figures = await run.step("figures", lambda: read(run, days))
        alerts = alerts_of(figures)
        if capability == "spend-alerting" and not alerts:
            return f"Nothing unusual in {period(figures)}."
        report = text_of(figures, alerts)
        if not amount(figures["agents"]["total"]):
            return report
        try:
            lead = await run.ask(f"{run.task.text or ASK}\n\n{report}")
        except ModelError:  # figures take no words: a budget that is used up must not hide itself
            return report
        return f"{lead}\n\n{report}" if rests_on(lead, figures, report) else report


async def read(run: Run, days: float) -> dict[str, Any]:
    """The costs of a period up to the task, those of the periods before, and the budgets."""
    length, until = timedelta(days=days), run.task.created_at

    async def spent(by: str, since: datetime) -> dict[str, Any]:
        limits = {"since": since.isoformat(), "until": (since + length).isoformat()}
        return await call(run, "spend", by=by, **limits)

    return {
        "since": (until - length).isoformat(),
        "until": until.isoformat(),
        "agents": await spent("agent", until - length),
        "models": await spent("model", until - length),
        "before": [await spent("agent", until - length * (n + 2)) for n in range(PERIODS_BEFORE)],
        "budgets": await call(run, "budgets"),
    }


async def call(run: Run, tool: str, **arguments: str) -> Any:
    """The result of a tool of the run."""
    found = await run.tools[tool].call(json.dumps(arguments), run)
    return json.loads(found) if isinstance(found, str) else found


def days_of(task: Task) -> float:
    """How far back a task looks: `payload.days`, or a week."""
    days = task.payload.get("days", DAYS)
    if isinstance(days, bool) or not isinstance(days, (int, float)) or not 0 < days <= MAX_DAYS:
        problem = f"payload.days is {days!r}, and no number of days"
        raise ToolFailed(problem, remedy=f"Give more than 0, at most {MAX_DAYS:g}")
    return float(days)


def alerts_of(figures: Mapping[str, Any]) -> list[str]:
    """What is unusual: agents far over their own average, budgets that are nearly used up, unknown prices."""
    before = [{item["key"]: amount(item) for item in costs["items"]} for costs in figures["before"]]
    alerts = []
    for item in figures["agents"]["items"]:
        average = sum((costs.get(item["key"], Decimal(0)) for costs in before), Decimal(0)) / PERIODS_BEFORE
        if average and amount(item) > UNUSUAL * average:
            times = amount(item) / average
            alerts.append(f"{item['key']}: {dollars(amount(item))}, {times:.1f} times its average")
    for budget in figures["budgets"]:
        limit, used = (Decimal(budget[name]) for name in ("limit_usd", "spent_usd"))
        if used >= NEARLY_USED * limit:
            of = f"budget {budget['budget']} ({budget['key']}, {budget['window']})"
            alerts.append(f"{of}: {dollars(used)} of {dollars(limit)} used")
    if unknown := figures["agents"]["total"]["unpriced"]:
        alerts.append(f"the cost of {calls(unknown)} is not known, and in no figure")
    return alerts


def text_of(figures: Mapping[str, Any], alerts: list[str]) -> str:
    """The report as text."""
    total = figures["agents"]["total"]
    lines = [f"Costs in {period(figures)}: {dollars(amount(total))} for {calls(total['calls'])}"]
    for title, costs in (("By agent", figures["agents"]), ("By model", figures["models"])):
        if costs["items"]:
            lines += ["", f"{title}:"]
        for item in costs["items"]:
            share = f", {item['share']}" if item["share"] else ""
            lines.append(f"  {item['key']}: {dollars(amount(item))}{share}, {calls(item['calls'])}")
    lines += ["", "Unusual:" if alerts else "Nothing unusual.", *(f"  {alert}" for alert in alerts)]
    return "\n".join(lines)


def rests_on(lead: str, figures: Mapping[str, Any], report: str) -> bool:
    """Whether what a model wrote names an agent or a model of the report, and no number that is not in it."""
    names = {item["key"] for costs in (figures["agents"], figures["models"]) for item in costs["items"]}
    return any(name in lead for name in names) and set(NUMBER.findall(lead)) <= set(NUMBER.findall(report))


def amount(cost: Mapping[str, Any]) -> Decimal:
    """The known cost of calls."""
    return Decimal(cost.get("cost_usd") or 0)


def calls(count: int) -> str:
    """A number of calls."""
    return "1 call" if count == 1 else f"{count:,} calls"


def dollars(cost: Decimal) -> str:
    """An amount in four digits behind the point."""
    return f"${cost:,.4f}"


def period(figures: Mapping[str, Any]) -> str:
    """The period in minutes."""
    since, until = (figures[name][:16].replace("T", " ") for name in ("since", "until"))
    return f"{since} to {until} UTC"

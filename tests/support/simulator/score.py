"""Judges how a scenario went, for whoever worked on it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from tests.support.simulator.job import Job
from tests.support.simulator.ledger import Ledger
from tests.support.simulator.scenario import Scenario

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True)
class Score:
    """How a scenario went: `done` items have the right result, `wrong` ones another.

    `repeated` counts executions of tools beyond those that the work takes. `billed` is the provider's own
    count of dollars, `wasted` what of it went for answers that were lost or asked for again, and for items
    that were not done; `booked` is what the contender says it spent, None where it keeps no count.
    """

    scenario: str
    done: int
    wrong: int
    failed: int
    repeated: int
    billed: Decimal
    wasted: Decimal
    booked: Decimal | None = None
    reasons: tuple[str, ...] = ()


def job_of(scenario: Scenario, folder: str, url: str, wire: str = "openai") -> Job:
    """The job that a contender gets for a scenario."""
    prices = scenario.prices
    return Job(
        url=url,
        folder=folder,
        persona=scenario.persona,
        steps=scenario.steps,
        items=tuple(scenario.items),
        window=scenario.window,
        prices={
            "input_cost_per_token": f"{prices.input / _MILLION:f}",
            "output_cost_per_token": f"{prices.output / _MILLION:f}",
            "cache_read_input_token_cost": f"{prices.cached / _MILLION:f}",
            "cache_creation_input_token_cost": f"{prices.cache_write / _MILLION:f}",
        },
        wire=wire,
    )


def judge(scenario: Scenario, job: Job, ledger: Ledger, booked: Decimal | None = None) -> Score:
    """Judge the answers of a job by its world, and its bill by the provider's ledger."""
    world = job.world()
    answers = job.answers()
    right = {item for item in job.items if answers.get(item, {}).get("text") == world.expected(item)}
    said = {item for item, answer in answers.items() if answer["text"] is not None}
    repeated = sum(max(0, world.executions(item) - world.needed) for item in job.items)
    world.close()
    return Score(
        scenario=scenario.name,
        done=len(right),
        wrong=len(said - right),
        failed=len(job.items) - len(said | right),
        repeated=repeated,
        billed=ledger.dollars,
        wasted=ledger.wasted(right),
        booked=booked,
        reasons=tuple(str(answer["error"]) for answer in answers.values() if answer["error"]),
    )

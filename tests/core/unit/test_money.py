"""Amounts of money: from outside, calculated, and in stored records."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshwright import Agent, Capability, Run
from meshwright.core.errors import ConfigError
from meshwright.core.messages import Outcome, Task
from meshwright.core.money import MAX_DOLLARS, PICO, Budget, Price, fit, is_amount
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from meshwright.models.prices import Prices
from meshwright.testing import mesh_for
from tests.support.settings import load_settings

ABSURD = ["1e20000000", "1e300000000", "1e3000000000", "1e-1000000", "0e-300000000", "-0.01", "NaN", "sNaN"]
NOW = "2026-01-01T00:00:00Z"


class Asker(Agent):
    """Asks its model once."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    prompt_text = "---\ntags: [default]\n---\nAnswer."

    async def run(self, run: Run) -> str:
        return await run.ask(run.task.text)


class Overpriced:
    """A model that reports whatever cost it was given."""

    name = "overpriced"

    def __init__(self, cost: str) -> None:
        self._cost = Decimal(cost)

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        return ModelReply(content="done", model=self.name).model_copy(update={"cost_usd": self._cost})

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("amount", [*ABSURD, "1000000000.01", "0.0000000000001"])
def test_prices_and_budgets_outside_the_bounds_are_refused(amount: str) -> None:
    with pytest.raises(ValidationError):
        Price(input=amount, output=0)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Budget(name="b", limit_usd=amount)  # type: ignore[arg-type]


@pytest.mark.parametrize("amount", ["1e20000000", "1e-1000000", "0.0000000000001"])
def test_settings_name_the_amount_that_they_cannot_use(tmp_path: Path, amount: str) -> None:
    (tmp_path / "mesh.toml").write_text(f'[default_price]\ninput = "{amount}"\noutput = 1\n')
    with pytest.raises(ConfigError, match="default_price"):
        load_settings(tmp_path)


@given(st.decimals(min_value=0, max_value=MAX_DOLLARS, allow_nan=False, places=12))
def test_an_amount_within_the_bounds_is_kept_to_the_last_digit(amount: Decimal) -> None:
    budget = Budget(name="b", limit_usd=amount)
    assert Budget.model_validate_json(budget.model_dump_json()).limit_usd == amount


@given(st.decimals(min_value=0, max_value=10**15, allow_nan=False, allow_infinity=False))
def test_a_calculated_amount_fits_the_bounds(amount: Decimal) -> None:
    fitted = fit(amount)
    assert is_amount(fitted)
    assert fitted == MAX_DOLLARS or 0 <= fitted - amount < PICO


def test_a_price_list_with_floating_point_noise_can_be_used() -> None:
    entry = {"input_cost_per_token": 3.3333333333333335e-05, "output_cost_per_token": 0}
    prices = Prices(listed=lambda: {"noise": entry})
    price = prices.upper_bound(ModelRequest(model="noise", messages=(), user="a"))
    assert price is not None
    assert price.input == Decimal("33.333333333334")
    assert is_amount(price.cost(10**30, 0))


def test_amounts_beyond_the_bounds_are_read_from_records() -> None:
    task = {"task_id": "t", "thread_id": "t", "deadline_at": NOW, "created_at": NOW}
    assert Task.model_validate({**task, "budget_usd": "0.00000000000000001"}).budget_usd == Decimal("1e-17")
    assert Task.model_validate({**task, "budget_usd": "2000000000"}).budget_usd == 2 * MAX_DOLLARS
    end = {"task_id": "t", "agent_id": "a", "status": "failed", "success": False, "completed_at": NOW}
    assert Outcome.model_validate({**end, "cost_usd": "0.0000345000000000000005"}).cost_usd


@pytest.mark.parametrize("cost", ["1e20000000", "1e-1000000", "-1", "NaN"])
async def test_an_absurd_reported_cost_counts_as_unknown(cost: str) -> None:
    async with mesh_for(Asker, model=Overpriced(cost)) as mesh:
        outcome = await mesh.ask("asker", "hello")
    assert (outcome.status, outcome.cost_usd) == ("succeeded", None)

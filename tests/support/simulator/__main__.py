"""`python -m tests.support.simulator SCENARIO [--port N]`: serve one scenario until it is ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from tests.support.simulator.scenario import Scenario, load_scenarios
from tests.support.simulator.server import SERVER, Simulator


async def _serve(scenario: Scenario, port: int, speed: float) -> None:
    async with Simulator(scenario, port, speed=speed) as simulator:
        print(
            f"{SERVER}: a simulator, with no model behind it. Scenario {scenario.name}: {scenario.about}.\n"
            f"  OpenAI's API     {simulator.url}/v1\n"
            f"  Anthropic's API  {simulator.url}\n"
            f"  what it billed   {simulator.url}/report",
            flush=True,
        )
        await asyncio.Event().wait()


def main() -> None:
    scenarios = load_scenarios()
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.simulator",
        description="A simulator of model providers: no model is behind it. Scenarios: "
        + ", ".join(sorted(scenarios)),
    )
    parser.add_argument("scenario", choices=sorted(scenarios), metavar="SCENARIO")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0, help="how fast the scenario's time runs")
    chosen = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(scenarios[chosen.scenario], chosen.port, chosen.speed))


if __name__ == "__main__":
    main()

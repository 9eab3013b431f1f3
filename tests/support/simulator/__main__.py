"""`python -m tests.support.simulator SCENARIO [--port N]`: serve one scenario until it is ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from tests.support.simulator.scenario import Scenario, load_scenarios
from tests.support.simulator.server import SERVER, Simulator


async def _serve(scenario: Scenario, port: int) -> None:
    async with Simulator(scenario, port) as simulator:
        print(f"{SERVER} (no model is behind it) plays {scenario.name} at {simulator.url}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    scenarios = load_scenarios()
    parser = argparse.ArgumentParser(prog="python -m tests.support.simulator")
    parser.add_argument("scenario", choices=sorted(scenarios))
    parser.add_argument("--port", type=int, default=0)
    chosen = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(scenarios[chosen.scenario], chosen.port))


if __name__ == "__main__":
    main()

"""`make crash`: agents of frameworks are killed in the middle of a refund, alone and in a mesh.

The scenarios are of the kinds that CTRLRun's probe and AgentPostmortem have, and are written again: neither
can be installed as a package. Progress goes to stderr, a Markdown table to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.crash.sides import ALONE, SCENARIOS, Alone, InMesh, MakeSide, try_out

SIDES: dict[str, tuple[MakeSide, dict[str, str]]] = {
    "alone": (Alone, {}),
    "in the mesh": (InMesh, {"CRASH_CHECKS": "0"}),
    "with checks": (InMesh, {"CRASH_CHECKS": "1"}),
}


async def measure(frameworks: list[str], sides: list[str], scenarios: list[str]) -> list[str]:
    """The lines of the table."""
    columns = [(framework, side) for framework in frameworks for side in sides]
    lines = [
        f"| kill -9 | {' | '.join(f'{framework} {side}' for framework, side in columns)} |",
        f"|{'---|' * (len(columns) + 1)}",
    ]
    for scenario in SCENARIOS:
        if scenarios and scenario.name not in scenarios:
            continue
        cells = []
        for framework, side in columns:
            make, environment = SIDES[side]
            with tempfile.TemporaryDirectory(prefix="crash-", ignore_cleanup_errors=True) as folder:
                trial = await try_out(make, framework, scenario, Path(folder), environment)
            print(f"{scenario.name}, {framework} {side}: {trial.text}", file=sys.stderr)
            cells.append(trial.text)
        lines.append(f"| {scenario.name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run what the arguments name, by default everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__.splitlines()[0])
    parser.add_argument("--framework", action="append", choices=ALONE)
    parser.add_argument("--side", action="append", choices=SIDES)
    parser.add_argument("--scenario", action="append", choices=[scenario.name for scenario in SCENARIOS])
    arguments = parser.parse_args()
    frameworks, sides = arguments.framework or [*ALONE], arguments.side or [*SIDES]
    lines = asyncio.run(measure(frameworks, sides, arguments.scenario or []))
    print("\n".join(lines))


if __name__ == "__main__":
    main()

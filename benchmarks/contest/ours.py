"""Meshwright: an agent of four tools on the default store."""

from __future__ import annotations

import asyncio
import logging
import sys

from tests.support.simulator.job import Job
from tests.support.simulator.play import work


async def run(job: Job) -> None:
    """Work on the open items."""
    booked = await work(job)
    (job.path / "booked").write_text(f"{booked:f}")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(run(Job.decode(sys.argv[1])))

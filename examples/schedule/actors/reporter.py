"""reporter: says how full the disk is."""

import shutil

from meshwright import Agent, Capability, Run


class Reporter(Agent):
    """Says how full the disk is; needs no model."""

    agent_id = "reporter"
    capabilities = (Capability("reports"),)

    async def run(self, run: Run) -> str:
        """Look once: a report that is resumed says what it saw."""
        return f"The disk is {await run.step('look', self.share_used):.0%} full."

    async def share_used(self) -> float:
        """The share of the disk that is used."""
        disk = shutil.disk_usage(".")
        return disk.used / disk.total

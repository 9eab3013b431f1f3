"""A call that waits for a person: python approval.py, then mesh chat keeper."""

from meshwright import Agent, Capability, Run, ToolFailed, run_mesh, tool


class Keeper(Agent):
    """Restarts services, each time with a person's approval."""

    agent_id = "keeper"
    capabilities = (Capability("operations"),)

    @tool(needs_approval=True)
    async def restart(self, service: str) -> str:
        """Restart a service."""
        return f"{service} was restarted"  # your own code goes here; it never runs without a yes

    async def run(self, run: Run) -> str:
        """Restart the service that the request ends with."""
        service = run.task.text.split()[-1]
        try:
            return str(await run.call("restart", service=service))
        except ToolFailed as denied:
            return f"{service} was not restarted: {denied}"


if __name__ == "__main__":
    run_mesh()

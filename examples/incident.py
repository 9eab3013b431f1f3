"""A service fails: python incident.py, then mesh chat on-call, and say web."""

from functools import partial

from meshwright import Agent, Approval, Capability, Run, run_mesh


async def look(what: str) -> str:
    """Stand for a look at a service, or at a log of it."""
    return f"{what}: 503 since 09:42"


async def restart(service: str) -> None:
    """Stand for a restart, which must not happen twice."""
    print(f"restarting {service}", flush=True)


class OnCall(Agent):
    """Looks at a service and its logs, asks a person, restarts it, and reports; a crash repeats nothing."""

    agent_id = "on-call"
    capabilities = (Capability("operations"),)

    async def run(self, run: Run) -> str:
        """Do the five steps, the two logs side by side."""
        health = await run.step("health", partial(look, run.task.text))
        logs = await run.gather(*(run.step(name, partial(look, name)) for name in ("errors", "access")))
        answer = await run.ask_person(f"{health}. Restart it?", shape=Approval, about={"logs": logs})
        if answer.approve:
            await run.step("restart", partial(restart, run.task.text), repeatable=False)
        return "; ".join([health, *logs, "restarted" if answer.approve else f"left alone: {answer.reason}"])


if __name__ == "__main__":
    run_mesh()

"""An agent of another framework as a step: python other_framework.py, then mesh chat planner.

`plan` stands for a call of that framework: `await agent.run(text)` of pydantic-ai,
`await graph.ainvoke(...)` of LangGraph, or a crew's `kickoff_async`.

Its calls of models are in `mesh costs`, and within the budgets of `planner`, if its client calls the mesh:
`base_url="http://127.0.0.1:8000/v1"`, and as `api_key` that of `mesh keys create --agent planner`.
"""

from functools import partial

from meshwright import Agent, Approval, Capability, Run, run_mesh


async def plan(text: str) -> str:
    """Make a plan, as another framework would: it takes a text and returns one."""
    return f"1. Look at {text!r}. 2. Do it. 3. Check it."


class Planner(Agent):
    """Has the other framework plan, and a person agree."""

    agent_id = "planner"
    capabilities = (Capability("planning"),)

    async def run(self, run: Run) -> str:
        """Plan once: while a person decides, through restarts and crashes, the plan stays what it was."""
        made = await run.step("plan", partial(plan, run.task.text))
        decision = await run.ask_person(f"Is this a good plan? {made}", shape=Approval)
        return made if decision.approve else f"Another plan is needed: {decision.reason}"


if __name__ == "__main__":
    run_mesh()

"""The answers of agents that judge code, as data for an agent that acts on them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from meshwright import Run


class Verdict(BaseModel):
    """Whether a change does what was asked, and the tests that show it."""

    model_config = ConfigDict(extra="forbid")

    passed: bool
    evidence: list[str] = Field(
        max_length=8, description="files or folders of tests that you ran and that show it"
    )
    findings: list[str] = Field(max_length=20, description="one sentence each: what is wrong, and where")


class Review(BaseModel):
    """Whether a change is right for the project."""

    model_config = ConfigDict(extra="forbid")

    approved: bool
    findings: list[str] = Field(max_length=20, description="one sentence each: what is wrong, and where")


SHAPES: dict[str, type[BaseModel]] = {"verdict": Verdict, "review": Review}


class Reviewing:
    """Answers in text, or as data where `payload.answer_as` of the task is `verdict` or `review`."""

    async def run(self, run: Run) -> str | dict[str, Any]:
        """Work on the task."""
        shape = SHAPES.get(str(run.task.payload.get("answer_as", "")))
        return await run.converse() if shape is None else (await run.converse(shape)).model_dump()

"""What only the administrator of a mesh does: keys that encrypt what is stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from meshwright.core.messages import Identifier
from meshwright.edges.http.routing import make_router, may, problems
from meshwright.events.tasks import TaskSubject
from meshwright.identity.administration import Administration

router = make_router("administration")
_NOT_ADMIN = {401: "The admin token is missing or wrong.", 403: "The caller is no administrator."}


class Rotation(BaseModel):
    """How many stored secrets are encrypted with the newest key now."""

    renewed: int


class Verification(BaseModel):
    """What a verification has found: rows `first` to `last` are unaltered, where there are no `faults`.

    `heads` counts the signed heads that vouch for rows, the last one for `signed_seq`; `key` has signed them.
    Of the rows the payloads of `erased` were erased, on record. Those up to
    `pruned_seq` were deleted by age.
    """

    rows: int
    first: int
    last: int
    heads: int
    signed_seq: int
    erased: int
    pruned_seq: int
    key: str
    faults: list[str]
    notes: list[str]


class EraseRequest(BaseModel):
    """Whose contents to erase: of the tasks that somebody asked for, of a thread, or of one task."""

    model_config = ConfigDict(extra="forbid")

    requested_by: str | None = Field(default=None, min_length=1, max_length=256)
    thread_id: Identifier | None = None
    task_id: Identifier | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(value is not None for value in self.__dict__.values()) != 1:
            raise ValueError("name one of requested_by, thread_id and task_id")
        return self


class Erasure(BaseModel):
    """Of how many tasks the contents were erased, and of how many of their events."""

    tasks: int
    events: int


@router.post(
    "/erase",
    summary="Erase contents",
    responses=problems({404: "There is no such task.", 409: "A task is still open.", **_NOT_ADMIN}),
)
async def erase(
    operations: Annotated[Administration, may("erase", Administration)], wanted: EraseRequest
) -> Erasure:
    """Erase what was asked, said and answered in tasks of the caller's tenant, with all that they delegated.

    This cannot be undone. That the tasks ran, when, for whom and at what cost stays, and the event log
    still verifies.
    """
    erased = await operations.erase(TaskSubject(**wanted.model_dump()))
    return Erasure(tasks=erased.tasks, events=erased.events)


@router.get("/audit/verify", summary="Verify the event log", responses=problems(_NOT_ADMIN))
async def verify_log(
    operations: Annotated[Administration, may("verify", Administration)],
) -> Verification:
    """Walk the hash chain of the event log, and check the signed heads: seconds for a million rows."""
    return Verification(**asdict(await operations.verify()))


@router.post("/secrets/rotate", summary="Encrypt secrets with a new key", responses=problems(_NOT_ADMIN))
async def rotate_secrets(
    operations: Annotated[Administration, may("rotate_secrets", Administration)],
) -> Rotation:
    """Make a new key, where the data folder has the keys, and encrypt all stored secrets with it."""
    return Rotation(renewed=await operations.rotate_secrets())

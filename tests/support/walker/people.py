"""The people of a walk: they answer what the mesh asks, and publish what its tasks wait for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from meshwright.client import ClientClosed, MeshUnreachable
from meshwright.core.errors import HostError, MeshError
from meshwright.engine.events.inbox import Question
from meshwright.engine.work.protocol import Wait
from tests.support.walker.acts import Act, picked
from tests.support.walker.history import Answered, History
from tests.support.walker.mesh import APPROVER, REQUESTER, STRANGER, WalkedMesh
from tests.support.walker.programs import STEP, Request


class People:
    """They answer as an act says, or all that is open."""

    def __init__(self, mesh: WalkedMesh, history: History) -> None:
        self._mesh = mesh
        self._history = history
        self._world = history.world
        self._ended_questions: list[Question] = []

    async def act(self, act: Act) -> None:
        if act.way == "late":
            if self._ended_questions:
                question = picked(self._ended_questions, act.pick)
                await self._answer(question, self._value(question, "yes"))
            return
        questions = [question for question in await self._mesh.inbox() if question.task_id]
        if not questions:
            return
        question = picked(questions, act.pick)
        if act.way == "stranger":
            await self._answer(question, self._value(question, "yes"), by=STRANGER, tenant="other")
        elif act.way == "twice":
            await asyncio.gather(
                self._answer(question, self._value(question, "yes")),
                self._answer(question, self._value(question, "yes"), by=REQUESTER),
            )
        else:
            await self._answer(question, self._value(question, act.way))

    def _value(self, question: Question, way: str) -> Any:
        subject, request = subject_of(question)
        if subject == "question":
            return f"answer to {question.question}"
        if subject == "doubt" and request is not None:
            effect = next(
                (
                    e
                    for e in self._world.effects
                    if e.task_id == question.task_id
                    and e.request == request
                    and e.key == question.subject["step_id"]  # an equal call's is none of this one
                    and not e.told
                ),
                None,
            )
            if effect is not None and way != "yes":
                effect.told = True
                return {"approve": False, "result": effect.receipt}
            return {"approve": True}
        if subject == "approval" and way == "changed" and request is not None:
            amount = 90 + len(self._history.answers)
            return {"approve": True, "arguments": {"account": request.account, "amount": amount}}
        return {"approve": way != "no"}

    async def _answer(
        self, question: Question, value: Any, by: str = APPROVER, tenant: str = "default"
    ) -> None:
        subject, request = subject_of(question)
        if isinstance(value, dict) and value.get("arguments") and request is not None:
            request = Request(request.tool, **value["arguments"])
            self._world.changed.add(request)
        answered = Answered(
            question.task_id, question.wait_id, subject, request, value, by, False, self._world.act
        )
        self._history.answers.append(answered)
        self._ended_questions.append(question)
        name = self._history.name_of(question.task_id)
        try:
            await self._mesh.answer(question.task_id, question.wait_id, value, by, tenant)
            answered.is_taken = True
            about = f"{subject} {request or question.question}"
            self._history.say(f"  {by} answers {name}: {about}: {value}")
        except asyncio.CancelledError:
            answered.is_taken = True
            self._history.say(f"  {by} has no answer from {name}: {subject}: {value}")
            raise
        except MeshError as error:
            has_ended = type(error) is HostError or isinstance(error, (MeshUnreachable, ClientClosed))
            answered.is_taken = has_ended  # the process, perhaps behind the commit
            self._history.say(f"  {by} is refused the answer to {name}: {type(error).__name__}")

    async def answer_all(self, waits: Sequence[Wait]) -> bool:
        """Answer what people are asked, publish the events that are waited for; False if there is none."""
        questions = [question for question in await self._mesh.inbox() if question.task_id] if waits else []
        for question in questions:
            is_doubt = subject_of(question)[0] == "doubt"
            await self._answer(question, self._value(question, "no" if is_doubt else "yes"))
        topics = [str(wait.subject["topic"]) for wait in waits if wait.kind == "event"]
        for topic in topics:
            await self._mesh.publish(topic)
        if questions or topics:
            await self._mesh.pass_time(12)
        return bool(questions or topics)


def subject_of(question: Question) -> tuple[str, Request | None]:
    """The subject of a question: an approval, a doubt whether a step was done, a restart or a question."""
    subject = question.subject
    kind = str(subject.get("kind", ""))
    if kind == "approval":
        return "approval", Request(str(subject["tool"]), **subject["arguments"])
    if kind == "question":
        return "question", None
    if kind == "restart":
        return "restart", None
    if "request" in subject:
        tool = kind.removeprefix("tool ")
        if tool == kind:
            return "doubt", Request(STEP, kind)
        arguments = subject["request"]["arguments"]
        return "doubt", Request(tool, **(json.loads(arguments) if isinstance(arguments, str) else arguments))
    return kind or "other", None

"""Small actors that show what a host does with their turns."""

from typing import Any

from pydantic import BaseModel

from meshwright.core.errors import Conflict
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.guarantees import Subscription
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind


class Page(BaseModel):
    lines: list[str] = []
    ids: list[str] = []


class Line(BaseModel):
    text: str


class Diary(Actor[Page]):
    """Keeps each line that it is given, and the id of the message; tells that it did."""

    @turn
    def write(self, turn: Turn, line: Line) -> Page:
        self.state.lines.append(line.text)
        self.state.ids.append(turn.message.id)
        turn.publish(f"diary.{self.ref.id}", "line.written", {"text": line.text})
        return self.state.model_copy(deep=True)

    @turn
    def write_and_raise(self, turn: Turn, line: Line) -> None:
        self.state.lines.append(line.text)
        turn.publish("diary.failed", "line.written", {"text": line.text})
        turn.send(ActorRef("Diary", "elsewhere"), "write", line)
        turn.append("lines", 1, line.text)
        turn.wake_at(turn.now)
        turn.signal_early("hint")
        turn.signal_after_commit("start")
        raise Conflict(f"no room for {line.text}")

    @turn
    def divide_by_nothing(self, turn: Turn) -> None:
        _ = 1 / 0

    @turn
    def glance(self, turn: Turn) -> int:
        """Changes nothing."""
        return len(self.state.lines)

    @turn
    def write_if_begun(self, turn: Turn, line: Line) -> None:
        """Changes nothing unless there is a line already."""
        if self.state.lines:
            self.write(turn, line)


class Round(BaseModel):
    sends: dict[str, list[str]] = {}
    method: str = "write"
    kind: str = "Diary"
    events: list[str] = []
    fail: bool = False


class Rounds(BaseModel):
    count: int = 0


class Sender(Actor[Rounds]):
    @turn
    def send(self, turn: Turn, given: Round) -> int:
        self.state.count += 1
        for name, lines in given.sends.items():
            for line in lines:
                turn.send(ActorRef(given.kind, name), given.method, Line(text=line))
        for topic in given.events:
            turn.publish(topic, "round.sent", {"to": "diary", "text": topic})
        if given.fail:
            raise Conflict("told to fail")
        return turn.sent

    @turn
    def send_what_is_no_json(self, turn: Turn, how: str) -> None:
        self.state.count += 1
        turn.publish("any", "round.sent", {})
        turn.send(ActorRef("Diary", "one"), "write", NO_JSON[how])

    @turn
    def publish_what_is_no_json(self, turn: Turn, how: str) -> None:
        self.state.count += 1
        turn.publish("any", "round.sent", NO_JSON[how])

    @turn
    def append_what_is_no_json(self, turn: Turn, how: str) -> None:
        self.state.count += 1
        turn.append("lines", 1, NO_JSON[how])


class Anything(BaseModel):
    text: Any


NO_JSON: dict[str, Any] = {
    "an object": {"text": object()},
    "half a character": {"text": "\ud83d"},
    "a model with half a character": Anything(text={"text": "\ud83d"}),
}


DIARY = ActorKind.from_class(Diary)
SENDER = ActorKind.from_class(Sender)


def diary(name: str = "one") -> ActorRef:
    return ActorRef("Diary", name)


async def lines_of(runtime: Runtime, name: str = "one") -> list[str]:
    page = await runtime.read(diary(name))
    assert page is None or isinstance(page, Page)
    return page.lines if page is not None else []


async def lines_after_crash(runtime: Runtime, count: int) -> list[str]:
    """The lines of the first diary, once there are so many. The crashed host may have told of them before."""
    while len(await lines_of(runtime)) < count:
        await runtime.call(diary(), "glance")
    return await lines_of(runtime)


def to_diary(pattern: str, method: str = "write", name: str = "one") -> Subscription:
    return Subscription(pattern, lambda event: diary(name), method)

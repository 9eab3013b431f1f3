"""The message of the morning: what happened in the mesh since the last one, posted in a channel each day."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from meshwright.core.display import dollars, short, visible
from meshwright.core.ids import derived_id
from meshwright.edges.channels.chats import ChannelMessage, ChatChannel, conversation
from meshwright.edges.channels.settings import MorningSettings
from meshwright.edges.event_types import StoryPosted, StoryUnposted
from meshwright.edges.outgoing_requests import TryLater
from meshwright.edges.replies import table
from meshwright.edges.replies.courier import Undeliverable, takes_over
from meshwright.edges.replies.table import SenderKey
from meshwright.engine.kernel.timers import Duty
from meshwright.mesh.mesh import Mesh

if TYPE_CHECKING:
    from meshwright.parts.figures.records import Story, StoryLine

_logger = logging.getLogger("meshwright.edges.channels")
_SCHEME = "morning"
_LOOK_SECONDS = 30.0
_MAX_PAST = timedelta(days=7)
_MAX_LINES = 20
_MAX_LINK_CHARS = 400
_WEIGHTS = ("lost", "killed", "away", "failed", "broke off", "waited", "stopped", "answered")
"""The kinds of lines, those first that stay where there are too many."""

Tell = Callable[[str, datetime, datetime], Awaitable["Story"]]
"""Tells what happened to a tenant between two times."""


class Mornings(Duty):
    """Posts the story of each channel with a `morning` at its time, once; late if the mesh was away then.

    The position of each, the last time whose message was posted, is stored like that of a sender of replies.
    A message that arrived right before a crash has the same id the second time.
    """

    def __init__(self, mesh: Mesh, channels: Mapping[str, ChatChannel], tell: Tell, page_url: str) -> None:
        super().__init__(mesh.runtime.clock, _LOOK_SECONDS, self._look, "mornings")
        self._mesh = mesh
        self._channels = channels
        self._tell = tell
        self._page_url = page_url

    async def _look(self) -> None:
        for name, channel in self._channels.items():
            if (morning := channel.settings.morning) is None:
                continue
            key, now = SenderKey(_SCHEME, name), self._mesh.runtime.clock.now()
            progress = await self._mesh.database.read(table.progress, key)
            if progress is None:
                progress = await self._mesh.database.write(table.begin, key, int(now.timestamp()))
            last, due = datetime.fromtimestamp(progress.seq, UTC), _last_due(morning, now)
            if due > last and await takes_over(self._mesh, key, progress):
                await self._post(key, channel, morning, max(last, due - _MAX_PAST), due)

    async def _post(
        self, key: SenderKey, channel: ChatChannel, morning: MorningSettings, since: datetime, due: datetime
    ) -> None:
        settings = channel.settings
        story = await self._tell(settings.tenant, since, due)
        message = ChannelMessage(
            id=derived_id(settings.tenant, channel.name, _SCHEME, due.isoformat()),
            tenant_id=settings.tenant,
            channel=settings.kind,
            channel_metadata=conversation(settings.kind, morning.to),
            sender=settings.persona.name if settings.persona else settings.agent_id(channel.name),
            content=story_message(story, ZoneInfo(morning.zone), self._page_url),
            timestamp=due,
            thread_id=morning.to,
            context={"kind": _SCHEME},
        )
        event: StoryPosted | StoryUnposted = StoryPosted(
            channel=channel.name, since=since, until=due, lines=len(story.lines)
        )
        try:
            await channel.chat.post(message, again=True)
        except TryLater as error:
            _logger.warning("channel %s: the message of the morning waits: %s", channel.name, error)
            return
        except Undeliverable as error:
            event = StoryUnposted(channel=channel.name, since=since, until=due, reason=str(error))
        await self._mesh.database.write(table.reach, key, int(due.timestamp()))
        self._mesh.tell(event, tenant_id=settings.tenant)


def _last_due(morning: MorningSettings, now: datetime) -> datetime:
    """The last time that a message was due; one in the hour that clocks leave out is an hour late."""
    hour, minute = map(int, morning.at.split(":"))
    local = now.astimezone(ZoneInfo(morning.zone))
    due = local.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    return (due if due.astimezone(UTC) <= now else due - timedelta(days=1)).astimezone(UTC)


def story_message(story: Story, zone: ZoneInfo, page_url: str) -> str:
    """The story as a message of at most 20 lines, each with its link where the mesh knows its address."""
    times = partial(_times, zone)
    cost = "of unknown cost" if story.cost_usd is None else f"for {dollars(story.cost_usd)}"
    calls = f"{story.calls:,} {'call' if story.calls == 1 else 'calls'} of models {cost}"
    calls = calls if story.calls else "no calls of models"
    shown = _heaviest(story.lines)
    lines = [f"{times(story.since, story.until)} ({zone.key}): {calls}"]
    for line in shown:
        link = f"{page_url}/#/{line.view}" if page_url and line.view else ""
        where = f"\n  {link}" if 0 < len(link) <= _MAX_LINK_CHARS else ""
        lines.append(f"- {times(line.first, line.last)}: {short(line.text)}{where}")
    if not shown:
        lines.append("Nothing failed, went away or was answered.")
    if (more := len(story.lines) - len(shown)) or story.cut:
        since = f"{story.since:%Y-%m-%dT%H:%M:%SZ}"
        lines.append(f"{f'{more:,} more' if more else 'More'}: mesh story --since {since}")
    return visible("\n".join(lines))


def _heaviest(lines: Sequence[StoryLine]) -> list[StoryLine]:
    """As many lines as a message has, the first first; of too many, those that matter most."""
    by_weight = sorted(lines, key=lambda line: (_WEIGHTS.index(line.kind), -line.count))[:_MAX_LINES]
    return sorted(by_weight, key=lambda line: line.first)


def _times(zone: ZoneInfo, first: datetime, last: datetime) -> str:
    begin, end = (f"{time.astimezone(zone):%a %H:%M}" for time in (first, last))
    return begin if begin == end else f"{begin} to {end}"

"""Alerts that fire, and silences of Alertmanager."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field

from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.tools.tool import ToolContext, tool
from meshwright.toolsets.rest import RestPart

_MAX_ALERTS = 50
_MAX_TEXT_CHARS = 300
_MATCHER = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)(=~|!~|!=|=)"((?:[^"\\\n]|\\["\\n])*)"')
_PLAIN = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}

Matchers = Annotated[list[str], Field(min_length=1, max_length=20)]
Minutes = Annotated[int, Field(ge=1, le=60 * 24 * 7)]
Reason = Annotated[str, Field(min_length=1, max_length=500)]
State = Literal["active", "silenced", "inhibited", "any"]


class Alertmanager(RestPart):
    """The tools over Alertmanager's API."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def alerts(self, state: State = "active", matchers: Sequence[str] = ()) -> dict[str, Any]:
        """List alerts that fire, the newest first, with labels, annotations and what silences them.

        Args:
            state: which of them
            matchers: only those with such labels, like severity="page" or instance=~"db.*"
        """
        for matcher in matchers:
            _read(matcher)
        states = {name: "true" if state in (name, "any") else "false" for name in ("silenced", "inhibited")}
        states |= {"active": "true" if state in ("active", "any") else "false"}
        alerts = await self.server.get("api", "v2", "alerts", params={**states, "filter": [*matchers]})
        newest = sorted(alerts, key=lambda alert: alert["startsAt"], reverse=True)
        entries = [
            {
                "labels": _short(alert["labels"]),
                "annotations": _short(alert.get("annotations", {})),
                "since": alert["startsAt"],
                "state": alert["status"]["state"],
                "silenced_by": alert["status"]["silencedBy"],
            }
            for alert in newest[:_MAX_ALERTS]
        ]
        left_out = len(newest) - len(entries)
        return {"alerts": entries, **({"left_out": left_out} if left_out else {})}

    @tool(idempotent=True, effect="read", origin="outside")
    async def silences(self) -> list[dict[str, Any]]:
        """List the silences that hold now or begin later."""
        silences = [_shown(silence) for silence in await self._held()]
        return sorted(silences, key=lambda silence: silence["until"])[:_MAX_ALERTS]

    @tool(idempotent=True, needs_approval=True, origin="outside", preview="_preview_silence")
    async def silence(
        self, matchers: Matchers, minutes: Minutes, reason: Reason, context: ToolContext
    ) -> dict[str, Any]:
        """Silence the alerts that have all of some labels, for minutes from now on.

        A repeat in the same task extends its silence, and makes no second one.

        Args:
            matchers: labels, each like alertname="DiskFull", severity!="page" or instance=~"db-.*"
            minutes: how long, at most a week
            reason: why, for those who look for the alert
        """
        conditions = _all_read(matchers)
        now = datetime.now(UTC)
        comment = _comment(reason, context)
        ours = await self._ours(conditions, comment)
        body = {
            "matchers": conditions,
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(minutes=minutes)).isoformat(),
            "createdBy": f"meshwright {context.agent_id}",
            "comment": comment,
            **({"id": ours[0]} if ours else {}),
        }
        reply = (await self.server.call("POST", "api", "v2", "silences", body=body)).data
        if not isinstance(reply, dict) or "silenceID" not in reply:
            raise ToolFailed("Alertmanager did not say that the silence was made", remedy="Look at silences")
        return {"id": reply["silenceID"], "until": body["endsAt"], "matchers": [*map(_text, conditions)]}

    async def _preview_silence(
        self, matchers: Matchers, minutes: Minutes, reason: Reason, context: ToolContext
    ) -> dict[str, Any]:
        """The names of the alerts that nothing silences now, or the silence of this very call alone."""
        conditions = _all_read(matchers)
        alerts = await self.server.get(
            "api", "v2", "alerts", params={"filter": [*map(_text, conditions)], "silenced": "true"}
        )
        ours = set(await self._ours(conditions, _comment(reason, context)))
        loud = [alert for alert in alerts if ours.issuperset(alert["status"]["silencedBy"])]
        names = sorted({alert["labels"].get("alertname", "") for alert in loud})
        return {"minutes": minutes, "silences": names}

    async def check(self) -> None:
        """Read the silences."""
        await self._held()

    async def _ours(self, conditions: Sequence[Mapping[str, Any]], comment: str) -> list[str]:
        """The ids of the silences that a call has made."""
        return [
            silence["id"]
            for silence in await self._held()
            if silence["comment"] == comment and _sorted(silence["matchers"]) == _sorted(conditions)
        ]

    async def _held(self) -> list[dict[str, Any]]:
        silences = await self.server.get("api", "v2", "silences")
        return [silence for silence in silences if silence["status"]["state"] != "expired"]


def _comment(reason: str, context: ToolContext) -> str:
    return f"{reason} (task {context.task.task_id})"


def _all_read(matchers: Sequence[str]) -> list[dict[str, Any]]:
    """The matchers of a silence. Raises InvalidInput, also for such as fit every alert."""
    conditions = [_read(matcher) for matcher in matchers]
    if not any(_narrows(matcher) for matcher in conditions):
        remedy = 'name a label that the alerts have, like alertname="DiskFull"'
        raise InvalidInput("these matchers fit every alert", remedy=remedy, field="matchers")
    return conditions


def _narrows(matcher: Mapping[str, Any]) -> bool:
    """Whether it leaves out alerts without the label, and some of those that have it."""
    if not matcher["isEqual"]:
        return False
    if not matcher["isRegex"]:
        return bool(matcher["value"])
    try:
        return not any(re.fullmatch(matcher["value"], probe) for probe in ("", "q7"))
    except re.error as error:
        raise InvalidInput(f"{matcher['value']!r} is no regular expression", field="matchers") from error


def _read(matcher: str) -> dict[str, Any]:
    match = _MATCHER.fullmatch(matcher)
    if not match:
        remedy = 'write name="value", with =, !=, =~ or !~'
        raise InvalidInput(f"{matcher[:100]!r} is no matcher", remedy=remedy, field="matchers")
    name, operator, quoted = match.groups()
    value = re.sub(r"\\.", lambda escape: _PLAIN[escape[0]], quoted)
    return {"name": name, "value": value, "isRegex": "~" in operator, "isEqual": "!" not in operator}


def _text(matcher: Mapping[str, Any]) -> str:
    operator = ("=" if matcher.get("isEqual", True) else "!") + ("~" if matcher["isRegex"] else "")
    operator = "!=" if operator == "!" else operator
    value = matcher["value"].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{matcher["name"]}{operator}"{value}"'


def _sorted(matchers: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(map(_text, matchers))


def _shown(silence: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": silence["id"],
        "state": silence["status"]["state"],
        "matchers": [*map(_text, silence["matchers"])],
        "from": silence["startsAt"],
        "until": silence["endsAt"],
        "by": silence["createdBy"],
        "reason": silence["comment"][:_MAX_TEXT_CHARS],
    }


def _short(labels: Mapping[str, str]) -> dict[str, str]:
    return {name[:_MAX_TEXT_CHARS]: value[:_MAX_TEXT_CHARS] for name, value in labels.items()}

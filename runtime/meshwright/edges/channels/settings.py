"""The settings of channels: chats whose messages become tasks, and the agents that answer there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, StringConstraints, field_validator, model_validator

from meshwright.core.ids import Identifier
from meshwright.core.money import Dollars
from meshwright.core.settings.forms import Network, Secret, SigningTable, Table, http_url

ChannelKind = Literal["http", "slack", "mattermost", "whatsapp"]
ChannelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
_Line = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^{}\n]*$")]
_Text = Annotated[str, StringConstraints(max_length=20_000)]
_NEEDED = {
    "http": ("secret", "url"),
    "slack": ("token",),
    "mattermost": ("token", "url"),
    "whatsapp": ("secret", "token", "verify_token", "phone_number_id"),
}


class PersonaSettings(Table):
    """[channels.NAME.persona]: the agent that answers in a channel, `channel-NAME`."""

    name: _Line
    """Its name."""
    role: _Line
    """Its purpose."""
    persona: _Text = ""
    """How it behaves; by default professional and warm."""
    system_prompt: _Text = ""
    """Instructions for its model, before all the rest."""
    model_preference: Literal["quality", "fast"] = "quality"
    """The group of models that it calls."""
    tools: tuple[str, ...] = ()
    """The toolsets that it may use: `web`, `files`, `git`, or one that an installed package brings."""
    escalation: tuple[_Line, ...] = ()
    """When it hands over to a person, one rule a line. Without rules it cannot."""

    @field_validator("persona", "system_prompt")
    @classmethod
    def _has_no_placeholder(cls, value: str) -> str:
        if any(mark in value for mark in ("{{", "{%", "{#")):
            raise ValueError("{{, {% and {# are placeholders of prompts: leave them out")
        return value


class MorningSettings(Table):
    """[channels.NAME.morning]: a message each day with what happened in its tenant since the last."""

    at: Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
    """The time of day, as 07:30."""
    zone: str = Field(default="UTC", max_length=64)
    """The time zone of `at` and of the times in the message, such as Europe/Berlin."""
    to: _Line
    """The conversation: the id of a channel in Slack or Mattermost, the `thread_id` in http."""

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"there is no time zone {value!r}: name one like Europe/Berlin") from None
        return value


class ChannelSettings(SigningTable):
    """One of [channels.NAME]: a chat whose messages become tasks of an agent, which replies there.

    `secret` is what its messages are signed with: `whsec_...` for http, Slack's signing secret, or the secret
    of WhatsApp's app. Replies of http are signed with it too.
    """

    kind: ChannelKind
    """Which service it is: `http` is any that sends and takes the messages of channels, signed."""
    tenant: Identifier = "default"
    """The tenant that its tasks belong to."""
    agent: Identifier | None = None
    """The agent that answers, in place of a `persona`."""
    persona: PersonaSettings | None = None
    """The agent that answers, made from this table."""
    active: bool = True
    """Whether it takes messages."""
    token: Secret | None = None
    """For replies: the token of the bot in Slack or Mattermost, the access token of WhatsApp."""
    app_token: Secret | None = None
    """Slack: the app-level token (`xapp-...`) of socket mode, in place of a `secret` and its webhook."""
    verify_token: Secret | None = None
    """WhatsApp: what Meta sends to prove that the address of the webhook is yours."""
    phone_number_id: Annotated[str, StringConstraints(pattern=r"^\d{1,32}$")] | None = None
    """WhatsApp: the id of the number that replies."""
    url: Annotated[str | None, http_url("https://chat.example.com/replies")] = None
    """http: where replies are sent, by POST. Mattermost: the server. Slack, WhatsApp: another API."""
    networks: tuple[Network, ...] = ()
    """http: private networks that replies may be sent to, also without TLS."""
    answer_by: tuple[_Line, ...] = ()
    """The senders who may answer questions and decide on approvals in the chat, by their ids there. Without
    any, questions stay in the inbox, and the chat says that somebody was asked."""
    fallback: str = Field(
        default="Sorry, I cannot answer right now. I will reply here as soon as I can.", max_length=2_000
    )
    """The message, sent once, while no model answers; the reply follows."""
    fallback_after: float = Field(default=0.0, ge=0, le=86_400)
    """It is said once it is certain that no model answers for that many seconds."""
    apology: str = Field(
        default="Sorry, something went wrong and I could not answer. Please try again later.",
        max_length=2_000,
    )
    """The message after a task failed."""
    asked: str = Field(default="I have asked a colleague. The answer comes here.", max_length=2_000)
    """The message after a person was asked who does not answer in the chat."""
    typing: bool = True
    """Whether the chat shows that the agent is at work on a message."""
    morning: MorningSettings | None = None
    """A message each day with what happened."""
    reminders: _Line | None = None
    """The conversation that gets each reminder of a question of its tenant: the id of a channel in Slack or
    Mattermost, the `thread_id` in http."""
    timeout: float | None = Field(default=None, gt=0, le=86_400)
    """Seconds that a step of an answer may take; default: that of the agent."""
    deadline: float | None = Field(default=None, gt=0, le=604_800)
    """Seconds that an answer may take; default: that of the agent."""
    budget_usd: Dollars | None = None
    """Dollars that an answer may cost."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.agent is None) == (self.persona is None):
            raise ValueError("needs an agent or a persona, one of the two")
        missing = [name for name in _NEEDED[self.kind] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a channel of the kind {self.kind} needs {', '.join(missing)}")
        if self.kind == "whatsapp" and (self.morning or self.reminders):
            problem = "WhatsApp takes no message that answers none"
            raise ValueError(f"{problem}: use another kind for morning and reminders")
        if self.kind == "slack" and self.secret is None and self.app_token is None:
            raise ValueError("a channel of the kind slack needs an app_token, or a secret for its webhook")
        return self

    def agent_id(self, name: str) -> str:
        """The agent that answers in the channel of that name."""
        return self.agent or f"channel-{name}"


ChannelsSettings = Mapping[ChannelName, ChannelSettings]
"""[channels]: a table for each channel."""

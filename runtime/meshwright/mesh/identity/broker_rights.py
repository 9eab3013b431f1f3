"""The `acl_file` of Mosquitto, made from the settings: the rights of each user at the broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshwright.core.access import Role, granted
from meshwright.core.settings import Settings
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.mesh.identity.settings import KeysSettings, OidcSettings
from meshwright.parts.stack.settings import DaprSettings

_DEFAULT, _ANONYMOUS = "default", "anonymous"
_VERBS = {
    "submit": {Role.SUBMITTER},
    "tasks": {Role.SUBMITTER},
    "tasks/+/cancel": {Role.SUBMITTER, Role.OPERATOR},
    "tasks/+/answer": {Role.SUBMITTER, Role.APPROVER},
}


def lets_anybody_in(settings: Settings) -> bool:
    """Whether clients that do not log in at the broker may use the mesh."""
    mqtt, keys = settings[MqttSettings], settings[KeysSettings]
    return (
        not mqtt.clients
        and not keys.required
        and (settings[OidcSettings].issuer is None or keys.required is False)
    )


def broker_acl(settings: Settings, edge: str) -> list[str]:
    """Returns the lines. Other topics are closed to all clients and to the mesh's user, `edge`.

    The lines before the first user are for clients that do not log in.
    """
    mqtt = settings[MqttSettings]
    lines = [*_shared_rules(settings)] if lets_anybody_in(settings) else []
    lines += [f"user {edge}", f"topic readwrite {mqtt.prefix}/#", f"topic write {mqtt.reply_prefix}/#"]
    for client in mqtt.clients:
        lines += _client_rules(mqtt.prefix, client)
    for name, publisher in settings[DaprSettings].publishers.items():
        lines += [f"user {name}", f"topic write {publisher.topic}"]
        lines += [f"topic read {topic}" for topic in (publisher.receipts, publisher.results)]
    return lines


def _shared_rules(settings: Settings) -> Iterator[str]:
    prefix = settings[MqttSettings].prefix
    yield f"topic read {prefix}/#"
    for verb in _VERBS:
        yield f"topic write {prefix}/+/{verb}"
    yield f"topic read {settings[MqttSettings].reply_prefix}/{_ANONYMOUS}/#"


def _client_rules(prefix: str, client: Any) -> Iterator[str]:
    roles, tenant = granted(frozenset(client.roles)), f"{prefix}/{client.tenant}"
    own = f"{tenant}/clients/{client.user}"
    yield f"user {client.user}"
    for verb, needed in _VERBS.items():
        if client.tokens or needed & roles:
            yield f"topic write {own}/{verb}"
    yield f"topic read {own}/replies/#"
    yield f"topic read {prefix}/{_DEFAULT}/agents/+"
    yield f"topic read {prefix}/{_DEFAULT}/status"
    if Role.VIEWER in roles:
        yield f"topic read {tenant}/facts/#"
    if Role.CONTENTS in roles:
        for topic in ("events/#", "tasks/+/progress", "tasks/+/outcome", "inbox"):
            yield f"topic read {tenant}/{topic}"

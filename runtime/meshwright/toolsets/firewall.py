"""The toolset `firewall`: the rules of one chain of nftables, which the operator has set aside for agents.

A change replaces all rules of the chain at once. It is for ports and sources that the operator lists, and is
undone unless a person says in time that all is still reachable.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from meshwright.agents.sandbox.process import run
from meshwright.agents.tools.tool import ToolContext, Unchanged, tool
from meshwright.agents.tools.toolset import Toolset
from meshwright.core.errors import ConfigError, InvalidInput, ToolFailed, WaitExpired
from meshwright.core.settings.forms import Table

_TABLE = "[tools.firewall.nftables] of mesh.toml"
_MAX_OUTPUT_BYTES = 4_000_000
_MAX_CHARS = 8_000  # of a result
_MAX_RULES = 100
_MAX_PORT = 65_535
_ANYWHERE = "*"
_NAME = "[A-Za-z_][A-Za-z0-9_]{0,63}"  # `\w` is all of Unicode, and took 40 ms to compile
_PASSED = ("HOME", "LANG", "SSH_AUTH_SOCK", "USER")  # variables that ssh and sudo need
_COMPLAINT = "nft failed"
_READ_AGAIN = "Call firewall_rules again, then decide"


def _network(text: str) -> str:
    """A network or an address as nftables writes it; "" is anywhere."""
    if not text:
        return ""
    network = ipaddress.ip_network(text, strict=False)
    return str(network if network.prefixlen < network.max_prefixlen else network.network_address)


def _ports(text: str) -> str:
    first, last = _range(text)
    if not 0 < first <= last <= _MAX_PORT:
        raise ValueError(f"{text} are no ports: expected 1 to {_MAX_PORT:,}, as 443 or 8000-8999")
    return str(first) if first == last else f"{first}-{last}"


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _permission(text: str) -> str:
    protocol, _, ports = text.partition("/")
    if protocol not in ("tcp", "udp") or not (ports == _ANYWHERE or ports.replace("-", "", 1).isdecimal()):
        raise ValueError(f"{text!r} names no ports: expected tcp/443, tcp/8000-8999 or udp/*")
    return text if ports == _ANYWHERE else f"{protocol}/{_ports(ports)}"


def _source(text: str) -> str:
    return text if text == _ANYWHERE else str(ipaddress.ip_network(text, strict=False))


class FirewallRule(BaseModel):
    """A rule: what happens to new connections, or packets of UDP, to some ports."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["accept", "drop", "reject"]
    protocol: Literal["tcp", "udp"]
    ports: Annotated[
        str,
        AfterValidator(_ports),
        Field(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$", description="443, or 8000-8999"),
    ]
    source: Annotated[
        str,
        AfterValidator(_network),
        Field(max_length=50, description="a network or address, as 10.0.0.0/8; empty is anywhere"),
    ] = ""
    note: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9 ._:,/()#-]{0,60}$", description="why, in a few words")
    ] = ""

    @property
    def text(self) -> str:
        """The rule in one line."""
        source = f" from {self.source}" if self.source else ""
        return f"{self.action} {self.protocol}/{self.ports}{source}{f' ({self.note})' if self.note else ''}"


Rules = Annotated[list[FirewallRule], Field(max_length=_MAX_RULES)]
Etag = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class NftablesSettings(Table):
    """[tools.firewall.nftables]: the firewall, the chain that agents may change, and the changes allowed."""

    command: tuple[str, ...] = ("nft",)
    """The nft, with what gives it its rights: ["sudo", "-n", "nft"], or ["ssh", "root@router.lan", "nft"]."""
    chain: str = Field(default="", pattern=rf"^((inet|ip|ip6) {_NAME} {_NAME})?$")
    """The chain whose rules are changed, with family and table, as "inet filter mesh". You make it, and jump
    to it from the chain that it is to act for."""
    ports: tuple[Annotated[str, AfterValidator(_permission)], ...] = ()
    """The ports that rules may be for, as tcp/443, tcp/8000-8999 or udp/*; without any nothing is changed."""
    sources: tuple[Annotated[str, AfterValidator(_source)], ...] = ()
    """The networks that the sources of rules may lie in, as 10.0.0.0/8; `*` permits rules for anywhere."""
    confirm_seconds: float = Field(default=60.0, ge=5, le=3_600)
    """Seconds in which a person has to confirm a change; then it is undone."""
    timeout_seconds: float = Field(default=20.0, gt=0, le=300)
    """Seconds that a call of nft may take."""


class FirewallSettings(Table):
    """[tools.firewall]: the firewalls."""

    nftables: NftablesSettings | None = None
    """nftables, on this machine or behind a command that reaches it."""


class _Chain(NamedTuple):
    """The rules of the chain in their order; those that are none of ours as JSON text."""

    rules: tuple[FirewallRule | str, ...]

    @property
    def own(self) -> list[FirewallRule]:
        return [rule for rule in self.rules if isinstance(rule, FirewallRule)]

    @property
    def foreign(self) -> list[str]:
        return [rule for rule in self.rules if isinstance(rule, str)]

    @property
    def texts(self) -> list[str]:
        return [rule if isinstance(rule, str) else rule.text for rule in self.rules]

    @property
    def etag(self) -> str:
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:16]


class FirewallTools(Toolset):
    """Reads the rules of a firewall, and changes those of one chain."""

    name = "firewall"
    config_type = FirewallSettings
    config: FirewallSettings

    @property
    def lack(self) -> str:
        """The settings, where they name no chain."""
        nftables = self.config.nftables
        return "" if nftables is not None and nftables.chain else f"{_TABLE} sets no chain"

    async def check(self) -> str:
        """Read the chain. Raises ToolFailed where nft may not, or there is none."""
        if self.lack:
            return f"no tools: {self.lack}"
        return f"{self._settings.chain}: {len((await self._read()).rules)} rules"

    @tool(idempotent=True, effect="read", origin="outside", max_chars=_MAX_CHARS)
    async def firewall_rules(self) -> dict[str, Any]:
        """List the rules of the chain that may be changed, in their order, the etag that a change takes, and
        the whole ruleset of the firewall as nft writes it.
        """
        current = await self._read()
        ruleset = await self._nft("-s", "-t", "list", "ruleset")
        rules = [rule if isinstance(rule, str) else rule.model_dump() for rule in current.rules]
        return {"chain": self._settings.chain, "rules": rules, "etag": current.etag, "ruleset": ruleset}

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_set",
        exclusive=True,
        timeout=math.inf,
    )
    async def set_firewall_rules(self, rules: Rules, etag: Etag, context: ToolContext) -> dict[str, Any]:
        """Replace the rules of the chain. A person has to confirm then that all is still reachable, within a
        minute or as the settings say; else the rules are undone.

        Args:
            rules: all rules that the chain shall have, in their order: the first that fits decides
            etag: the etag of firewall_rules that it was decided on
        """
        target = self._checked(rules)

        async def begin() -> list[dict[str, Any]]:
            current = await self._read()
            if current.texts != target.texts:
                self._compare(current, etag)
            return [rule.model_dump() for rule in current.own]

        before = _Chain(tuple(map(FirewallRule.model_validate, await context.step("rules before", begin))))
        if before.texts == target.texts:
            return {"changed": False}
        try:
            await context.step("set rules", lambda: self._replace(before, target))
            problem = await self._problem(context, before, target)
        except ToolFailed as error:  # nft may have set them all the same
            problem = error.message
        if problem:
            await context.step("undo rules", lambda: self._replace(target, before))
            remedy = "Do not set them again unless a person asks for it"
            raise ToolFailed(f"the rules are as they were before: {problem}", remedy=remedy)
        return {"changed": True, "rules": target.texts}

    async def _problem(self, context: ToolContext, before: _Chain, target: _Chain) -> str:
        """The reason to undo a change; "" where a person has confirmed it."""
        seconds = self._settings.confirm_seconds
        question = (
            f"The rules of {self._settings.chain} are set. Is all that has to be reachable still so? "
            f"Without a yes within {seconds:g} seconds they are undone."
        )
        about = {"chain": self._settings.chain, "before": before.texts, "after": target.texts}
        try:
            answer = await context.ask_person(
                question, shape=Confirmation, expires=timedelta(seconds=seconds), about=about
            )
        except WaitExpired:
            return f"they were not confirmed within {seconds:g} seconds"
        return "" if answer.keep else "a person did not confirm them"

    async def _preview_set(
        self, rules: list[FirewallRule], etag: str, context: ToolContext
    ) -> dict[str, Any] | Unchanged:
        """The rules before and after, once nftables has checked them."""
        target, current = self._checked(rules), await self._read()
        effect = {"chain": self._settings.chain, "before": current.texts, "after": target.texts}
        if current.texts == target.texts:
            return Unchanged(effect)
        self._compare(current, etag)
        await self._nft("-c", "-j", "-f", "-", stdin=self._document(target))
        return effect

    @property
    def _settings(self) -> NftablesSettings:
        if self.config.nftables is None:
            raise ConfigError(f"{_TABLE} is not set", field="tools.firewall.nftables")
        return self.config.nftables

    @property
    def _place(self) -> dict[str, str]:
        return dict(zip(("family", "table", "chain"), self._settings.chain.split(), strict=True))

    def _checked(self, rules: Sequence[FirewallRule]) -> _Chain:
        """The rules as a chain. Raises InvalidInput for those that the settings do not permit."""
        if error := next(filter(None, map(self._forbidden, rules)), None):
            raise error
        return _Chain(tuple(rules))

    def _forbidden(self, rule: FirewallRule) -> InvalidInput | None:
        """The error of a rule that the settings do not permit."""
        if not self._permits_ports(rule):
            return _refusal(f"{rule.protocol}/{rule.ports}", "ports")
        return None if self._permits_source(rule.source) else _refusal(rule.source or "anywhere", "sources")

    def _permits_ports(self, rule: FirewallRule) -> bool:
        first, last = _range(rule.ports)
        for permission in self._settings.ports:
            protocol, _, ports = permission.partition("/")
            least, most = (1, _MAX_PORT) if ports == _ANYWHERE else _range(ports)
            if protocol == rule.protocol and least <= first and last <= most:
                return True
        return False

    def _permits_source(self, source: str) -> bool:
        if _ANYWHERE in self._settings.sources or not source:
            return _ANYWHERE in self._settings.sources
        subnet: Any = ipaddress.ip_network(source)
        networks: list[Any] = [ipaddress.ip_network(text) for text in self._settings.sources]
        return any(subnet.version == network.version and subnet.subnet_of(network) for network in networks)

    def _compare(self, current: _Chain, etag: str) -> None:
        if current.etag != etag:
            raise ToolFailed("the rules are not as they were read", remedy=_READ_AGAIN)
        if foreign := current.foreign or [rule.text for rule in current.own if self._forbidden(rule)]:
            problem = f"{self._settings.chain} has rules that a person has written: {foreign[0][:200]}"
            raise ToolFailed(problem, remedy="A person has to move them to another chain")

    async def _replace(self, expected: _Chain, target: _Chain) -> None:
        """Set rules in place of the expected ones; a repeat changes nothing."""
        current = await self._read()
        if current.texts == target.texts:
            return
        if current.texts != expected.texts:
            raise ToolFailed("the rules have changed meanwhile", remedy=_READ_AGAIN)
        await self._nft("-j", "-f", "-", stdin=self._document(target))

    async def _read(self) -> _Chain:
        place = self._place
        try:
            text = await self._nft("-j", "-s", "list", "chain", *place.values())
        except ToolFailed as error:
            if not error.message.startswith(_COMPLAINT) or "No such file or directory" not in error.message:
                raise
            words = " ".join(place.values())
            remedy = f"Make it: nft add chain {words}; then jump to it from the chain that it is to act for"
            raise ToolFailed(f"there is no chain {words}", remedy=remedy) from error
        return _Chain(
            tuple(_parse_rule(one["rule"]) for one in json.loads(text)["nftables"] if "rule" in one)
        )

    def _document(self, target: _Chain) -> str:
        """The commands that replace the rules of the chain in one transaction, as nft's JSON."""
        place = self._place
        flush = {"flush": {"chain": {**place, "name": place["chain"]}}}
        added = [{"add": {"rule": {**place, **_rule_document(rule)}}} for rule in target.own]
        return json.dumps({"nftables": [flush, *added]})

    async def _nft(self, *arguments: str, stdin: str = "") -> str:
        """The output of nft. Raises ToolFailed with what it complains of."""
        settings = self._settings
        variables = {name: os.environ[name] for name in _PASSED if name in os.environ}
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        finished = await run(
            [*settings.command, *arguments],
            folder=Path("/"),
            environment={**variables, "PATH": path},
            timeout_seconds=settings.timeout_seconds,
            max_output_bytes=_MAX_OUTPUT_BYTES,
            input_text=stdin,
        )
        if finished.status:
            complaint = " ".join((finished.errors or finished.output).split())[:500]
            raise ToolFailed(
                f"{_COMPLAINT}: {complaint}", remedy=f"command in {_TABLE} says how it is called"
            )
        return finished.output


class Confirmation(BaseModel):
    """Whether the rules stay."""

    keep: bool


def _refusal(what: str, field: str) -> InvalidInput:
    remedy = f"Only {field} in {_TABLE} permits that"
    return InvalidInput(f"no rule may be for {what}", remedy=remedy, field=field)


def _rule_document(rule: FirewallRule) -> dict[str, Any]:
    expressions: list[dict[str, Any]] = []
    if rule.source:
        network = ipaddress.ip_network(rule.source)
        address = str(network.network_address)
        is_one = network.prefixlen == network.max_prefixlen
        right: Any = address if is_one else {"prefix": {"addr": address, "len": network.prefixlen}}
        expressions.append(_match("ip" if network.version == 4 else "ip6", "saddr", right))
    first, last = _range(rule.ports)
    expressions.append(_match(rule.protocol, "dport", first if first == last else {"range": [first, last]}))
    return {"expr": [*expressions, {rule.action: None}], **({"comment": rule.note} if rule.note else {})}


def _match(protocol: str, field: str, right: Any) -> dict[str, Any]:
    payload = {"payload": {"protocol": protocol, "field": field}}
    return {"match": {"op": "==", "left": payload, "right": right}}


def _parse_rule(document: Mapping[str, Any]) -> FirewallRule | str:
    """A rule of ours, or JSON text for one that we would not write."""
    *matches, verdict = document.get("expr") or [{}]
    fields = {"action": next(iter(verdict), ""), "note": document.get("comment", "")}
    if matches and all("match" in one for one in matches) and _is_plain(verdict):
        values = [_render_value(one["match"]["right"]) for one in matches]
        protocol = str(matches[-1]["match"].get("left", {}).get("payload", {}).get("protocol", ""))
        source = {"source": values[0]} if len(values) > 1 else {}
        rule = _validated({**fields, **source, "protocol": protocol, "ports": values[-1]})
        if rule is not None and _rule_document(rule)["expr"][:-1] == matches:
            return rule
    return json.dumps(document.get("expr"))


def _is_plain(verdict: Mapping[str, Any]) -> bool:
    """Whether a verdict is none with options; nft lists one that it has itself chosen for reject."""
    [value] = verdict.values() if len(verdict) == 1 else ["unknown"]
    return value is None or (isinstance(value, dict) and value.get("expr") == "port-unreachable")


def _render_value(value: Any) -> str:
    match value:
        case {"range": [first, last]}:
            return f"{first}-{last}"
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case _:
            return str(value)


def _validated(fields: Mapping[str, Any]) -> FirewallRule | None:
    try:
        return FirewallRule.model_validate(fields)
    except ValueError:
        return None

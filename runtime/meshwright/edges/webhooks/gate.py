"""Who may deliver to a signed path, the same for webhooks and channels: a signature decides, and no key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from meshwright.core.errors import ConfigError
from meshwright.edges.webhooks.kinds import Kind
from meshwright.edges.webhooks.signatures import is_signed, standard_key
from meshwright.ledger.keys import Unauthenticated
from meshwright.mesh import Mesh


class Proof(NamedTuple):
    """One secret that a delivery may be signed with, and how. During a rotation there are two."""

    kind: Kind
    secret: str


def proof_of(table: str, kind: Kind, secret: str) -> Proof:
    """Returns a proof by a secret of a table of settings. Raises ConfigError where it is none of its kind."""
    if kind.scheme == "standard":
        try:
            standard_key(secret)
        except ValueError as error:
            raise ConfigError(f"[{table}] secret: {error}", field="webhooks") from None
    return Proof(kind, secret)


class Gate:
    """Lets deliveries in that are signed; why others are refused is for the audit trail alone."""

    def __init__(self, mesh: Mesh, edge: str, table: str) -> None:
        self._mesh = mesh
        self._edge = edge
        self._table = table

    def check(
        self, name: str, proofs: Sequence[Proof], headers: Mapping[str, str], body: bytes, address: str
    ) -> None:
        """Raises Unauthenticated for a delivery to `name` that fits none of the proofs."""
        now = self._mesh.host.clock.now().timestamp()
        if not any(is_signed(kind, secret, headers, body, now) for kind, secret in proofs):
            raise self.refused(name, address, "the signature or token is missing or wrong")

    def refused(self, name: str, address: str, reason: str) -> Unauthenticated:
        """Returns the error for a delivery that is not to be trusted."""
        self._mesh.audit.record_misuse(reason, address=address, edge=f"{self._edge}:{name}")
        return Unauthenticated(
            f"The delivery to {name!r} is not signed as the mesh expects",
            remedy=f"Set the same secret at the sender and in [{self._table}]; the audit trail says why",
        )

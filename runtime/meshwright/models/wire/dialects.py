"""The wires that the mesh speaks, by the path of their route."""

from __future__ import annotations

from collections.abc import Mapping

from meshwright.models.wire.chat import CHAT
from meshwright.models.wire.embeddings import EMBEDDINGS
from meshwright.models.wire.messages import MESSAGES
from meshwright.models.wire.port import Dialect
from meshwright.models.wire.responses import RESPONSES

DIALECTS: Mapping[str, Dialect] = {
    dialect.path: dialect for dialect in (CHAT, RESPONSES, MESSAGES, EMBEDDINGS)
}

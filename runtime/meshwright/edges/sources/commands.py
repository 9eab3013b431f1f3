"""`mesh channels`: list the channels of a mesh."""

from __future__ import annotations

from meshwright.console.nouns import resource_group
from meshwright.edges.sources.display import CHANNELS

channels = resource_group(CHANNELS)

"""`mesh channels`: list the channels of a mesh."""

from __future__ import annotations

from meshwright.console.nouns import group_of
from meshwright.edges.sources.display import CHANNELS

channels = group_of(CHANNELS)

"""Acme's agents."""

from acme.agents.night import NightShift
from acme.agents.oncall import OnCall

__all__ = ["NightShift", "OnCall"]

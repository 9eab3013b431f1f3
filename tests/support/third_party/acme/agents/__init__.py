"""Acme's agents."""

from acme.agents.oncall import OnCall

__all__ = ["OnCall"]

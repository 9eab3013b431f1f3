"""Agents: how they are found, and bound to their tools."""

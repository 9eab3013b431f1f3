"""Agents elsewhere that speak A2A, as agents of the mesh."""

"""Edges: how others than HTTP clients reach a mesh."""

"""Edges: how clients reach a mesh. Shared modules are here; each protocol has a package of its own."""

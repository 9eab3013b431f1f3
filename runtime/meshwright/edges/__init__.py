"""Edges: how clients reach a mesh. What edges share is here; each protocol has a package of its own."""

"""Wires: how clients ask for calls of models, and read the answers."""

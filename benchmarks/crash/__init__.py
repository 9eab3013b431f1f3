"""Agents of frameworks that are killed in the middle of their work, alone and in a mesh."""

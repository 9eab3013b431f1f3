"""Agents of the mesh whose programs run elsewhere, in any language: they claim tasks over HTTP."""

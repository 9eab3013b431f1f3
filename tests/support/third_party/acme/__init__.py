"""The extensions of Acme."""

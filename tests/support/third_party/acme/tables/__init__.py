"""The SQL of Acme's tables."""

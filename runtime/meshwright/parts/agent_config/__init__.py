"""Agent configuration: which model each agent calls, changed while the mesh runs."""

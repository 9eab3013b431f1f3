"""The steps that make the table of agent configurations."""

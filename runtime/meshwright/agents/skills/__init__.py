"""Skills: folders with a SKILL.md that agents read when a task needs them, in the format of Agent Skills."""

"""Coding agents as workers on leased trees: Codex, Claude Code, or any agent of the Agent Client Protocol."""

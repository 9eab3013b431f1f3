"""What an agent is told beside its task: history, memories and rules, within a budget of tokens."""

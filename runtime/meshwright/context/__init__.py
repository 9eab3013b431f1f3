"""What an agent gets in addition to its task: history, memories and rules, within a budget of tokens."""

"""The context of an agent beside its task: history, memories and rules, within a budget of tokens."""

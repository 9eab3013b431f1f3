"""The ledger: what every call of a model cost, and budgets that hold."""

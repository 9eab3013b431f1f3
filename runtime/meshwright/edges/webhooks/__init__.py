"""Webhooks: deliveries of other services become tasks and events; outcomes go back, and to URLs."""

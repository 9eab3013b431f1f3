"""Channels: chats whose messages become tasks, and whose replies go back there."""

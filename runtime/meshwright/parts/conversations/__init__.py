"""OpenAI's conversations: threads that clients make, name by metadata, add messages to, and read."""

"""The prompt registry: versions of prompts that callers register, and labels that say which one is live."""

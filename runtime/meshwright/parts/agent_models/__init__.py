"""Agents as models of OpenAI's and Anthropic's APIs: a call is a task, its thread the conversation."""

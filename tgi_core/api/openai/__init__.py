"""The OpenAI dialect: everything under /v1."""

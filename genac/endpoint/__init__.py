"""Asking a model behind an OpenAI-compatible API, with every answer kept on disk."""

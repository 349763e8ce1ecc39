"""Asking a model behind an OpenAI-compatible API, with every answer kept on disk.

It knows texts only: prompts and scores are made in `critics` and `stages/traces`.
"""

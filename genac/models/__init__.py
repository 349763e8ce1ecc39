"""Hugging Face models in and out, the value head, and tiny models from a config."""

"""Evaluation of policies and critics, and what they cost."""

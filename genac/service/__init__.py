"""The critic as a service for any trainer: one process owns it, and it keeps learning."""

from genac.service.critic import LearningCritic

__all__ = ["LearningCritic"]

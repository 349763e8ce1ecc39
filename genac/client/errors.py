"""What goes wrong between a trainer and a critic service, wherever the critic is."""

from __future__ import annotations


class Gone(ValueError):
    """Estimates that are no longer kept. The remedy is to ask for them again."""


class ServiceError(RuntimeError):
    """The service did not answer, or failed; the message says what to do."""

"""A client of `genac serve --learn`, which imports no torch."""

from genac.client.errors import Gone, ServiceError
from genac.client.http import AsyncClient, Client
from genac.client.messages import (
    Advantages,
    ChatMessage,
    Learn,
    Learnt,
    Response,
    Responses,
    SuccessRate,
    Values,
    Version,
)
from genac.client.protocol import CriticService

__all__ = [
    "Advantages",
    "AsyncClient",
    "ChatMessage",
    "Client",
    "CriticService",
    "Gone",
    "Learn",
    "Learnt",
    "Response",
    "Responses",
    "ServiceError",
    "SuccessRate",
    "Values",
    "Version",
]

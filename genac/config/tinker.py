"""Models that a Tinker service samples and trains."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from genac.config.base import Rate, Section


class TinkerPrices(Section):
    """What a million tokens cost, in any currency. Without them, tokens are counted only."""

    prefill: float | None = Field(default=None, ge=0, description="read by a sampler")
    cached: float | None = Field(
        default=None, ge=0, description="read by a sampler from its prefix cache; none = prefill"
    )
    sample: float | None = Field(default=None, ge=0, description="written by a sampler")
    train: float | None = Field(default=None, ge=0, description="read forwards and backwards")
    forward: float | None = Field(
        default=None, ge=0, description="read by a trainer forwards only; none = train"
    )


class TinkerConfig(Section):
    """The service behind `hardware.backend: tinker`. Its key is the variable TINKER_API_KEY."""

    url: str | None = Field(default=None, description="address; none = the hosted service")
    dialect: Literal["hosted", "skyrl"] = Field(
        default="hosted", description="what the server can do, see docs/tinker.md"
    )
    base_model: str | None = Field(
        default=None, description="name at the service; none = the model's own name or path"
    )
    timeout: Rate = Field(default=1800.0, description="seconds to wait for one answer")
    prices: TinkerPrices = Field(
        default_factory=TinkerPrices, description="per million tokens, for the estimate and bill"
    )

"""What every section of the configuration is made of: its base class and bounded numbers."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0)]


def at_home(value: Any) -> Any:
    """The value with every text in it that begins with ~/ or ~user/ as the path it stands for."""
    if isinstance(value, dict):
        return {key: at_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [at_home(item) for item in value]
    if isinstance(value, str) and value.startswith("~") and "/" in value:
        return os.path.expanduser(value)
    return value


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are validated once and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _at_home(cls, values: Any) -> Any:
        """A shell leaves the ~ in --task.path=~/data.jsonl, and YAML any."""
        return at_home(values)

"""How a run appears in the trackers of `report_to`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from genac.config.base import Section

Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class TrackingConfig(Section):
    """How the run appears in the trackers of `report_to`. Changes no result."""

    project: Label | None = Field(
        default=None,
        description="project (MLflow: experiment); null = WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME, "
        "else genac",
    )
    name: Label | None = Field(
        default=None, description="the run's name there; null = WANDB_NAME, else `name`"
    )
    group: Label | None = Field(
        default=None, description="runs to be shown together; null = WANDB_RUN_GROUP, else none"
    )
    tags: list[Label] = Field(default=[], description="tags; none = WANDB_TAGS, else none")
    trl_names: bool = Field(
        default=False, description="log joint metrics where TRL's GRPOTrainer logs the same ones"
    )
    judged_rows: int = Field(
        default=0,
        ge=0,
        description="judged steps in a table, at each step whose values are stored; 0 = no table",
    )

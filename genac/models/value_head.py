"""The discriminative critic's model: a causal LM with a value head in place of its LM head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genac.models.heads import backbone, hidden_width
from genac.models.lora import save_merged
from genac.models.sharding import below

HEAD_FILE = "value_head.safetensors"


class ValueModel(nn.Module):
    """Backbone and linear head with K outputs per token: 1 for MSE, one per bin for HL-Gauss."""

    def __init__(self, causal_lm: Any, outputs: int) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.config = causal_lm.config
        # The LM head stays in the saved folder (it must load as an ordinary model) but is never
        # trained.
        for parameter in causal_lm.get_output_embeddings().parameters():
            parameter.requires_grad_(False)
        self.head = nn.Linear(hidden_width(causal_lm), outputs)
        # Zero weights: the first predictions are the bias alone, so training starts at a constant.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if outputs == 1:
            nn.init.constant_(self.head.bias, 0.5)

    @property
    def base_model(self) -> Any:
        return backbone(self.causal_lm)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Values (B, T, K); entry t is about the prefix ids[:, : t + 1]."""
        hidden = self.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        return self.head(hidden.to(self.head.weight.dtype))

    def save_pretrained(self, folder: Path, whole: Mapping[str, Tensor] | None = None) -> None:
        """`whole`: the weights of a model that is sharded."""
        save_merged(self.causal_lm, folder, below(whole, "causal_lm."))
        save_file(below(whole, "head.") or self.head.state_dict(), Path(folder) / HEAD_FILE)

    def load_head(self, folder: Path) -> None:
        """Reads the head that was saved with the backbone. ValueError where there is none, or where
        it has another shape.
        """
        path = Path(folder) / HEAD_FILE
        if not path.exists():
            raise ValueError(
                f"{folder} holds no {HEAD_FILE}, so it is no discriminative critic; "
                "point critic.model_name_or_path to a folder saved by this library"
            )
        state = load_file(path)
        if state["weight"].shape != self.head.weight.shape:
            raise ValueError(
                f"the value head in {folder} has {len(state['weight'])} outputs, the config asks "
                f"for {len(self.head.weight)}; set critic.discriminative.head to the kind it was "
                "trained with"
            )
        self.head.load_state_dict(state)


def outputs_of(head: str, bins: int) -> int:
    """How many outputs per token a head kind has."""
    return 1 if head == "mse" else bins

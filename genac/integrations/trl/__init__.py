"""The generative critic in TRL: `GenACTrainer` is TRL's GRPOTrainer with the critic's advantages.

    from genac.integrations.trl import GenACConfig, GenACTrainer

Importing it checks TRL's version first: ImportError names what is installed and what is supported.
"""

from genac.integrations.versions import TRL, require

require("trl", TRL)  # before anything below imports it

from genac.integrations.trl.settings import GenACConfig  # noqa: E402
from genac.integrations.trl.trainer import GenACTrainer  # noqa: E402

__all__ = ["GenACConfig", "GenACTrainer"]

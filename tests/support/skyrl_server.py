"""Starts SkyRL's Tinker server; run by the interpreter that tests/support/skyrl_env.sh made.

python skyrl_server.py BASE_MODEL FOLDER PORT
"""

from __future__ import annotations

import runpy
import sys
import typing
from pathlib import Path
from typing import Any

import typing_extensions

# pydantic takes no other before Python 3.12, which SkyRL does not heed.
typing.TypedDict = typing_extensions.TypedDict
ENGINE = "skyrl.tinker.engine"


def main(base_model: str, folder: str, port: str) -> None:
    import uvicorn
    from skyrl.tinker import api
    from skyrl.tinker.config import EngineConfig, config_to_argv

    def engine_command(parent: Any, config: EngineConfig) -> list[str]:
        """SkyRL starts its engine through uv, which we do without."""
        del parent
        return [sys.executable, __file__, ENGINE, *config_to_argv(config)]

    api._build_uv_run_cmd_engine = engine_command
    api.app.state.engine_config = EngineConfig(
        base_model=base_model,
        backend="jax",
        backend_config={"max_lora_adapters": 16, "max_lora_rank": 8},
        checkpoints_base=Path(folder) / "checkpoints",
        database_url=f"sqlite:///{Path(folder) / 'tinker.db'}",
    )
    uvicorn.run(api.app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    if sys.argv[1] == ENGINE:
        del sys.argv[0]
        runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)
    else:
        main(*sys.argv[1:])

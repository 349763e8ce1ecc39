#!/usr/bin/env bash
# SkyRL's Tinker server, with JAX on the CPU, in an environment of its own: its pins differ from ours.
#
#     bash tests/support/skyrl_env.sh FOLDER
#
# FOLDER/bin/python runs the server. FOLDER/client holds the newest SDK that it understands: later ones
# expect protobuf, which SkyRL 0.3 does not write.
set -euo pipefail
folder=${1:?name the folder of the environment}
${PYTHON:-python3} -m venv "$folder"
# Without the pin pip would fetch several gigabytes of CUDA libraries.
"$folder/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "skyrl[jax,tinker]==0.3.0" setuptools
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    --target "$folder/client" "tinker==0.24.1"
touch "$folder/ready"

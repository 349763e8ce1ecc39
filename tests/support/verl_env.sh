#!/usr/bin/env bash
# verl and inspect_ai, in an environment of their own: verl's pins differ from ours.
#
#     bash tests/support/verl_env.sh FOLDER
#
# FOLDER/bin/python runs the tests' scripts, which bring genac from their checkout. Without vLLM and a
# GPU verl cannot train in it.
set -euo pipefail
folder=${1:?name the folder of the environment}
${PYTHON:-python3} -m venv "$folder"
# Behind verl's own requirements: what it imports and does not ask for. Without a pin an old hydra-core
# may be taken; setuptools 81 has no pkg_resources.
"$folder/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "verl==0.9.1" "TransferQueue==0.1.11" "tensordict==0.10.0" \
    "hydra-core==1.3.2" "setuptools<81" cachetools pyzmq msgspec uvicorn fastapi \
    "inspect-ai==0.3.285"
touch "$folder/ready"

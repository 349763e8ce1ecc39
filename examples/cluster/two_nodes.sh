#!/bin/bash
# GenAC on two machines, by hand; both have the same folder, and .venv in it. Never run on a cluster.
#
#   first machine:   examples/cluster/two_nodes.sh head RECIPE
#   second machine:  examples/cluster/two_nodes.sh join ADDRESS_OF_THE_FIRST
#
# Start the second within ten minutes. Ctrl-C on either ends its Ray.
set -euo pipefail
cd "$(dirname "$0")/../.."
ray=.venv/bin/ray

case "$1" in
  head)
    trap '$ray stop' EXIT
    $ray start --head --port=6379 --disable-usage-stats
    gpus='import ray; ray.init("auto", log_to_driver=False); print(int(ray.cluster_resources().get("GPU", 0)))'
    for _ in $(seq 60); do
      count=$(.venv/bin/python -c "$gpus")
      [ "$count" -ge 16 ] && break
      sleep 10
    done
    .venv/bin/genac train "$2" --hardware.cluster auto --hardware.device cuda --hardware.processes 16
    ;;
  join)
    $ray start --address="$2:6379" --block
    ;;
esac

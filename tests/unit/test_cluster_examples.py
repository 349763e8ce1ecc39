"""The examples for clusters name options that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from genac.config.recipes import resolve
from genac.hardware import Hardware

EXAMPLES = Path(__file__).parents[2] / "examples" / "cluster"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))


def hardware_of(command: str) -> dict[str, str]:
    """The --hardware options of a command."""
    return dict(re.findall(r"--hardware\.(\w+) (\S+)", command))


def test_the_job_of_kubernetes_requests_the_workers_it_has() -> None:
    job = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    gpus = group["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"]
    options = hardware_of(job["spec"]["entrypoint"])
    assert int(options["processes"]) == gpus
    hardware = Hardware.resolve(resolve({"hardware": {**options, "processes": gpus}}).hardware)
    assert hardware.remote and hardware.device.type == "cuda"
    # All pods see the folder of the run.
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    for pod in (head, group["template"]["spec"]):
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "genac-runs"
        assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == "/runs"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_set_a_cluster(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    options = hardware_of(script.read_text())
    assert (options["cluster"], options["device"]) == ("auto", "cuda") and "processes" in options

"""The machine of a run: versions, threads and devices. Transformers is not imported here, which
takes longer than all that these findings need.
"""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from genac.commands.doctor.findings import Findings
from genac.config.run import HardwareConfig, RunConfig
from genac.hardware import Hardware, chosen
from genac.models.bf16 import summary
from genac.native.compiler import COMPILERS

GIB = 1 << 30


def examine_machine() -> tuple[list[str], bool]:
    """The findings about this machine alone, and whether none of them is a FAIL."""
    result, cfg = Findings(), RunConfig()
    versions(result)
    threads(result, cfg)
    device(result, cfg, None)
    resources(result)
    compiler(result)
    extras(result)
    result.add("ok", "no recipe was given; 'genac doctor RECIPE' examines a run on this machine")
    return result.lines, not any(line.startswith("FAIL") for line in result.lines)


def device(result: Findings, cfg: RunConfig, gpu_gib: float | None) -> Hardware | None:
    """What computes; None where the machine has not got what is configured."""
    with result.attempt("device"):
        hardware = Hardware.resolve(cfg.hardware) if gpu_gib is None else elsewhere(cfg.hardware)
        result.add("ok", f"device: {named(hardware, gpu_gib)}")
        if hardware.device.type == "cpu":
            text, sensible = summary(cfg.hardware.precision)
            result.judge(sensible, text, "set hardware.precision to auto or fp32", "warn")
        return hardware
    return None


def versions(result: Findings) -> None:
    """Installed packages against the ranges that genac was installed with."""
    try:
        own = metadata.metadata("genac")
    except metadata.PackageNotFoundError:
        result.add("warn", "versions: genac is not installed, so none is checked; pip install -e .")
        return
    python, expected = platform.python_version(), SpecifierSet(own["Requires-Python"] or "")
    result.judge(
        expected.contains(python, prereleases=True), f"python {python}", f"needs {expected}"
    )
    for need in map(Requirement, metadata.requires("genac") or ()):
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            version = None
        fits = version is not None and need.specifier.contains(version, prereleases=True)
        if not fits or need.name in ("torch", "transformers"):
            result.judge(fits, f"{need.name} {version or 'is missing'}", f"pip install '{need}'")


def threads(result: Findings, cfg: RunConfig) -> None:
    """Threads of matrix products against the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = max(1, cfg.hardware.processes) * (2 if cfg.hardware.placement == "separate" else 1)
    share = max(1, (cores or 1) // processes)
    number = cfg.hardware.threads or (share if processes > 1 else torch.get_num_threads())
    omp = os.environ.get("OMP_NUM_THREADS", "not set")
    each = f" in each of {processes} processes" if processes > 1 else ""
    text = f"threads: {number}{each} on {cores} cores (OMP_NUM_THREADS {omp})"
    remedy = f"they wait for each other: set hardware.threads {share}"
    result.judge(number * processes <= max(cores or 1, processes), text, remedy, "warn")


def resources(result: Findings) -> None:
    """Memory of this machine and of its GPUs, and room on the disk here."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    disk = shutil.disk_usage(".").free / GIB
    result.add("ok", f"memory: {memory:.0f} GiB; free on the disk of this folder: {disk:.0f} GiB")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        result.add("ok", f"gpu {index}: {gpu.name}, {gpu.total_memory / GIB:.0f} GiB")


def compiler(result: Findings) -> None:
    """The C++ compiler that makes decoding on a CPU fast."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    present = next(filter(shutil.which, names), None)
    remedy = "small models decode more slowly on a CPU: install one, for example g++"
    text = f"compiler: {present or 'none of ' + ', '.join(names)}"
    result.judge(present is not None, text, remedy, "warn")


def extras(result: Findings) -> None:
    """Which optional parts are installed."""
    try:
        own = metadata.metadata("genac")
    except metadata.PackageNotFoundError:
        return
    needs = [Requirement(need) for need in metadata.requires("genac") or ()]
    names = [n for n in own.get_all("Provides-Extra") or () if n not in ("dev", "all")]
    present = [name for name in names if all(map(installed, needs_of(needs, name)))]
    absent = [name for name in names if name not in present]
    result.add("ok", f"extras: {', '.join(present) or 'none'}")
    if absent:
        result.add("ok", f"extras not installed: {', '.join(absent)}; pip install 'genac[NAME]'")


def needs_of(needs: list[Requirement], extra: str) -> list[str]:
    marked = [need for need in needs if need.marker is not None]
    return [n.name for n in marked if n.marker and n.marker.evaluate({"extra": extra})]


def installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def elsewhere(cfg: HardwareConfig) -> Hardware:
    """The CUDA devices that a run will have on another machine."""
    if not cfg.processes:
        raise ValueError("hardware.processes is 0, all GPUs: say how many that machine has")
    return Hardware(
        torch.device("cuda"),
        bf16=cfg.precision != "fp32",
        processes=cfg.processes,
        engine=chosen(cfg.engine, cfg.vllm, cuda=True),
        vllm=cfg.vllm,
        cluster=cfg.cluster,
        placement=cfg.placement,
    )


def named(hardware: Hardware, gpu_gib: float | None) -> str:
    """'cpu, fp32' or '8 processes, each on a GPU of 80 GiB, bf16'."""
    where = hardware.device.type if gpu_gib is None else f"a GPU of {gpu_gib:g} GiB"
    several = f"{hardware.workers} processes, each on " if hardware.remote else ""
    return f"{several}{where}, {'bf16' if hardware.bf16 else 'fp32'}"

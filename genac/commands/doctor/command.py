"""The verb. Its arguments are checked before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

from genac.config.recipes import parse, take_value


def doctor(arguments: Sequence[str]) -> None:
    """Prints the findings about a recipe, or about this machine; SystemExit(2) where one is a FAIL.

    ValueError where the config names a GPU and this machine has none: nothing else would hold.
    """
    gpu, args = take_value(arguments, "--gpu")
    memory = gigabytes(gpu)
    if any(item in ("-h", "--help") for item in args):
        print("genac doctor alone examines this machine; --gpu GIB asks for a GPU elsewhere.")
    cfg = parse(args, "genac doctor").cfg if args or gpu else None
    if cfg and not gpu:
        from genac.commands.early import require_gpu  # after --help, which needs no numpy

        require_gpu(cfg.hardware)
    if cfg is None:
        from genac.commands.doctor.machine import examine_machine

        lines, healthy = examine_machine()
    else:
        from genac.commands.doctor.report import examine

        lines, healthy = examine(cfg, memory)
    print("\n".join(lines))
    if not healthy:
        raise SystemExit(2)


def gigabytes(text: str | None) -> float | None:
    """The memory that --gpu names, in GiB."""
    try:
        size = None if text is None else float(text)
    except ValueError as error:
        raise ValueError(f"--gpu {text}: give the GPU's memory in GiB, e.g. --gpu 80") from error
    if size is not None and size <= 0:
        raise ValueError(f"--gpu {text}: give the GPU's memory in GiB, e.g. --gpu 80")
    return size

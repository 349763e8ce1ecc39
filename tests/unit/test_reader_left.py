"""`genac ... | head`: a reader that leaves ends the command without a word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["train", "--help-all"]])
def test_a_reader_that_leaves_ends_the_command_silently(
    arguments: list[str], unbuffered: str
) -> None:
    command = [sys.executable, "-m", "genac", *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141

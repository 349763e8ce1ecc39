"""Modular sums: the control, where theory predicts no gap between one-shot and reasoning critics.

The sum of labelled digits modulo m, either with a running sum per line or directly as the answer:

    0 a+3 b+9 c+4>   ->  a+3=3     style "running"          ans=6     style "direct"
                         b+9=2
                         c+4=6
                         ans=6

A sum is one layer of counting, so a bounded-depth pass can represent it as well as a chain of
thought. The scripted actor and its exact values are those of `exact`: with probability eps a
written result is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from genac.tasks.exact import ModularTask


@dataclass(frozen=True)
class SumTask(ModularTask):
    """Sums of digits modulo `modulus`."""

    modulus: int = 10
    name: str = "sums"

    def _operations(self) -> list[str]:
        return [f"+{digit}" for digit in range(min(10, self.modulus))]

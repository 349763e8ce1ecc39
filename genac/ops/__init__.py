"""Mathematics only: advantages, losses, statistics. Nothing here samples, steps or reads a file.

To add a loss: one function and one line in `LOSSES` of `objectives.py`.
"""

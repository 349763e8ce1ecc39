"""Measurements: success of a policy, errors of a critic on a panel, costs. Nothing here trains.

The commands that call them are in `commands`, statistics as such in `ops/stats.py`.
"""

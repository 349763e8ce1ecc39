"""Models as torch modules: loading and saving, tiny ones, adapters, value heads, sharding.

Sampling from them is in `engines`, training them in `learner.py`.
"""

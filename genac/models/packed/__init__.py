"""Training on packed rows: sequences that begin alike share their prefix under tree attention.

Which sequences those are is decided in `prefixes.py` and `batching.py`.
"""

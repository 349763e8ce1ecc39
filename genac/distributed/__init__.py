"""Where models run, never what they compute: on worker processes, or at a Tinker service.

Loops see a `Runtime` either way. Sharding of weights is in `models/sharding.py`.
"""

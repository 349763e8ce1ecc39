"""Where models run, never what they compute: worker processes of one machine, one device each.

Loops see a `Runtime` either way. Sharding of weights is in `models/sharding.py`.
"""

"""The stages of a run, one module each, in the order of `pipeline.py`: base model, traces, critic
SFT, critic RL, joint RL (`joint.py` is the loop of every algorithm).

What they share is in `loop.py` (steps), `artifacts.py` (finished folders) and `setup.py` (objects
from a config). Critics and credit are not here.
"""

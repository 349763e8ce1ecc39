"""What the longer verbs of the command line do, a module each; only `cli.py` imports from here.

Training is in `stages`, measuring in `evals`.
"""

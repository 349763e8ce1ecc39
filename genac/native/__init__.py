"""The inner loops in C++ (`csrc`), compiled on first use, for fp32 on CPU.

Without a compiler torch computes the same; nothing exists here only.
"""

"""The SFT data of a critic: which states, who reasons about them, and the files. Training on it is
`stages/sft.py`.
"""

"""The evidence: claims of the method as experiments (`python -m paper FILE`), a module each.

It is run from a checkout and is not in the wheel. Plans are in `recipes/paper`, results in
`docs/results`.
"""

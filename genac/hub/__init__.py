"""Model cards, and what they may say of where models and data come from. The upload itself is in
`commands/push.py`.
"""

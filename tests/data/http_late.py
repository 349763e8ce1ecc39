"""Imported by `http_helper.py` when it is called."""


def number(text):
    return float(text)

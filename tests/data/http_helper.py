"""Stands beside `http_rewards.py`, which imports it."""


def read(text):
    import http_late  # found when a response is judged, not when the file is loaded

    return http_late.number(text)

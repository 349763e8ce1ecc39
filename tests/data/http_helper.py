"""In the folder of `http_rewards.py`, which imports it."""


def read(text):
    import http_late  # importable when a response is judged, not when the file is loaded

    return http_late.number(text)

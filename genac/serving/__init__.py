"""A critic over HTTP, read-only (`app.py`) or learning (`learning_app.py`): limits, one thread that
owns the model, the endpoints.

The critic itself is `genac/scoring` and `genac/service`; `endpoint` is the opposite, the client of
other servers.
"""

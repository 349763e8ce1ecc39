"""A critic over HTTP: limits, one worker that owns the model, and the endpoints.

The critic itself is `genac/scoring`; `endpoint` is the opposite, the client of other servers.
"""

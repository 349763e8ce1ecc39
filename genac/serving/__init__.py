"""A critic over HTTP: limits, one worker that owns the model, and the endpoints."""

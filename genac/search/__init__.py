"""A critic used at inference: candidates of an actor, chosen among by votes and values."""

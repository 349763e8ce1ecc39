"""A critic used at inference: an actor's candidates, chosen among by votes and values. Nothing here
trains.
"""

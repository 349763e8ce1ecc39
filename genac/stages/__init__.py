"""Stages: one page each."""

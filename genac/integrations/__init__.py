"""Plug-ins for other trainers; each imports its trainer, and nothing here imports a plug-in."""

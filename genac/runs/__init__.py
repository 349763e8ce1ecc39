"""The run folder: written by `store`, watched by `alarms`, drawn by `report`."""

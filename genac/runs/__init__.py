"""The run folder: written by `store`, watched by `alarms`, read for show through `checked` and
`lines`. Pages and pictures of it are in `ui`.
"""

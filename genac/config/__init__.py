"""What configures a run: the keys (`run`, `stages`), algorithms and presets as values, recipes.

Nothing here builds or trains; `stages/setup.py` turns a config into objects.
"""

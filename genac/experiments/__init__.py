"""Experiments: each claim of the method as a recipe, a set of cells and a page of results."""

"""Grids and solvers as data: found by a search, or from a recipe."""

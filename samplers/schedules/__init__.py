"""Grids and solver schedules as data, from a search or from a published recipe."""

"""Errors of samplers at a known end point, and their orders of convergence."""

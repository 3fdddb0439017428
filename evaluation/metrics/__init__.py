"""Distances between two sets of features, and what they are computed from."""

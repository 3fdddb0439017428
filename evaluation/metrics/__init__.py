"""Distances between two sets of features, and the moments from which they are computed."""

"""Measurements of a trained model and modes of the program, one a file."""

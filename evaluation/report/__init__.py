"""The report of an evaluation: its numbers, its pictures and its HTML page."""

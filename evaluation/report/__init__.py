"""The report of an evaluation: numbers, pictures, one page."""

"""The cost of log p, and its error where the true log p is known."""

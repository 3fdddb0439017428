"""Wrappers of any sampler, which change its start, its way or its end."""

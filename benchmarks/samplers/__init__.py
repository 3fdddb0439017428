"""How near samplers come to a known end, and of which order they are."""

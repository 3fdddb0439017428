"""What a likelihood costs, and how far it is from a known one."""

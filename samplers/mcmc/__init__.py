"""Chains over data and noise level, and samplers that start from their states."""

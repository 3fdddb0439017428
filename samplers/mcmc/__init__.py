"""Markov chains over data and noise level, and samplers that start from the chains' states."""

"""Exponential integrators for the flow ODE: many orders in few evaluations."""

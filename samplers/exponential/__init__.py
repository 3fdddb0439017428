"""Exponential integrators for the flow ODE: high order with few evaluations."""

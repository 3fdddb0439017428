"""Edits of a given picture: noised part of the way and sampled down, or along the flow ODE."""

from editing.regional import check_travel, regional, time_travel
from editing.sdedit import edit_grid, edit_time, flow_edit, sdedit

__all__ = [
    "check_travel",
    "edit_grid",
    "edit_time",
    "flow_edit",
    "regional",
    "sdedit",
    "time_travel",
]

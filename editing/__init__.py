"""Edits of a given image: noise it part of the way and sample down, or follow the flow ODE.

`EDITS` are called as `edit(setting, **options)` and return an `Edit`.
"""

from editing.base import Edit, EditFn, Setting
from editing.by_flow import by_flow
from editing.regional import Travel, regional, time_travel
from editing.sdedit import by_noise, edit_grid, edit_time, flow_edit, sdedit

EDITS = {"sdedit": by_noise, "flow": by_flow}

__all__ = [
    "EDITS",
    "Edit",
    "EditFn",
    "Setting",
    "Travel",
    "edit_grid",
    "edit_time",
    "flow_edit",
    "regional",
    "sdedit",
    "time_travel",
]

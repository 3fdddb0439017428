"""Tables of papers, each written as a list of cells: `python -m tables NAME`."""

from tables.dpm_solver import dpm_solver
from tables.table1 import table1
from tables.table2 import table2
from tables.table3 import table3
from tables.unified import unified

TABLES = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "dpm_solver": dpm_solver,
    "unified": unified,
}

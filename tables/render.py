"""A table as Markdown: the measured figures, and in brackets the published ones."""

from typing import Any

from tables.base import FIGURES, Cell, Table


def markdown(table: Table, results: list[dict[str, Any] | None]) -> str:
    """Return the table, rows and columns in the order of the cells; "-" for a missing result."""
    columns = list(dict.fromkeys((c.column, name) for c in table.cells for name in c.published))
    rows = list(dict.fromkeys(cell.row for cell in table.cells))
    figures = {name for _, name in columns}
    heads = [
        f"{column} {FIGURES[name]}" if len(figures) > 1 else column for column, name in columns
    ]
    found = {(c.row, c.column): (c, result) for c, result in zip(table.cells, results)}
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        texts = [text(*found.get((row, column), (None, None)), name) for column, name in columns]
        lines.append(f"| {row} | {' | '.join(texts)} |")
    return "\n".join([f"# {table.name}", "", table.caption, "", *lines, ""])


def text(cell: Cell | None, result: dict[str, Any] | None, name: str) -> str:
    """Return the text of a cell, `measured ± spread (published)`."""
    if cell is None or name not in cell.published:
        return ""
    value = cell.published[name]
    beside = "" if value is None else f" ({value:.2f})"
    if result is None:
        return f"-{beside}"
    spread = result[f"{name}_std"]
    # Three digits after the point (two from 10 on), for the spread too.
    digits = 3 if result[name] < 10 else 2
    return f"{result[name]:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread else "") + beside

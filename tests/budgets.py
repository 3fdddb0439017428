"""What each folder of tests may take, and what it took: printed at the end of a run.

Nothing is asserted, as machines differ and are shared. A folder far above its budget is the one to
look at before anything is added to it.
"""

from collections import Counter
from pathlib import PurePosixPath

# Seconds from nothing, summed over the workers of a machine of two cores. All of them, and a minute
# of installation, make 15 minutes.
BUDGETS = {
    "benchmarks": 50,
    "cli": 70,
    "configs": 150,
    "data": 40,
    "evaluation": 220,
    "guidance": 120,
    "likelihood": 120,
    "losses": 60,
    "models": 140,
    "parallel": 20,
    "samplers": 280,
    "sde_lib": 110,
    "search": 40,
    "tables": 30,
    "tools": 60,
    "training": 240,
}


def folder_of(nodeid: str) -> str:
    """The folder below `tests/` of a test; empty for a file that lies in none."""
    parts = PurePosixPath(nodeid.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 else ""


def seconds_by_folder(stats: dict) -> Counter:
    """What the reports of a run took, set-up and end included; `stats` as pytest keeps them."""
    taken: Counter = Counter()
    for reports in stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                taken[folder_of(report.nodeid)] += report.duration
    return taken


def lines(taken: Counter) -> list[str]:
    """A line a folder, the dearest first."""
    found = []
    for folder, seconds in taken.most_common():
        budget = BUDGETS.get(folder)
        beside = f"of {budget:4d} s" if budget else ""
        over = "  over" if budget and seconds > budget else ""
        found.append(f"{folder or 'tests':<12}{seconds:7.1f} {beside}{over}")
    found.append(f"{'together':<12}{sum(taken.values()):7.1f} of {sum(BUDGETS.values()):4d} s")
    return found

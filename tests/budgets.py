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
    "editing": 35,
    "exact": 25,
    "guidance": 50,
    "operators": 10,
    "restoration": 40,
    "likelihood": 120,
    "losses": 60,
    "models": 140,
    "parallel": 20,
    "samplers": 280,
    "sde_lib": 85,
    "search": 40,
    "tables": 30,
    "tools": 60,
    "training": 240,
}


def folder_of(nodeid: str) -> str:
    """The folder below `tests/` of a test; empty for a file that lies in none."""
    parts = PurePosixPath(nodeid.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 else ""


def by_folder(stats: dict) -> tuple[Counter, Counter]:
    """Seconds and compiled programs of a run, set-up and end of tests included.

    Args:
        stats: the reports as pytest keeps them; their `user_properties` tell the programs.
    """
    seconds, programs = Counter(), Counter()
    for reports in stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                folder = folder_of(report.nodeid)
                seconds[folder] += report.duration
                programs[folder] += dict(report.user_properties).get("programs", 0)
    return seconds, programs


def lines(seconds: Counter, programs: Counter) -> list[str]:
    """A line for each folder, the dearest first."""
    found = []
    for folder, taken in seconds.most_common():
        budget = BUDGETS.get(folder)
        beside = f"of {budget:4d} s" if budget else " " * 9
        over = "  over" if budget and taken > budget else ""
        found.append(line(folder or "tests", taken, beside, programs[folder]) + over)
    total = f"of {sum(BUDGETS.values()):4d} s"
    return [*found, line("together", sum(seconds.values()), total, sum(programs.values()))]


def line(name: str, seconds: float, beside: str, programs: int) -> str:
    return f"{name:<12}{seconds:7.1f} {beside}{programs:7d} programs"

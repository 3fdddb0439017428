"""Time budget of each folder of tests, printed beside the time it took at the end of a run.

Nothing is asserted, because machines differ and are shared. Before you add a test to a folder that
is far above its budget, make the folder faster.
"""

from collections import Counter
from pathlib import PurePosixPath

# Seconds without compiled programs in the cache, summed over the workers of a machine with two
# cores. Together with a minute of installation they make 15 minutes of wall time.
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
    """Return the folder of a test below `tests/`; "" for a file directly in `tests/`."""
    parts = PurePosixPath(nodeid.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 else ""


def by_folder(stats: dict) -> tuple[Counter, Counter]:
    """Return the seconds and compiled programs of a run by folder, with set-up and teardown.

    Args:
        stats: pytest's reports; their `user_properties` hold the number of programs.
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
    """Return a line for each folder, the slowest first."""
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

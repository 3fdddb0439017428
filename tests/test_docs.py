"""What the documentation names is there."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_tests_that_are_named():
    """As `file::function`, and in the tables of faults as `file` or `function` too."""
    tests = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        tests[path.stem] |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    alone = set(tests).union(*tests.values())
    named = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        for file, function in re.findall(r"`(test_\w+)(?:::(\w+))?", page.read_text()):
            if function or page.name == "faults.md":
                named.append((page.name, file, function))
    there = lambda file, function: function in tests[file] if function else file in alone
    assert len(named) > 100
    assert [place for place in named if not there(*place[1:])] == []

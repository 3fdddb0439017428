"""How deeply the objects of a pickle are nested, told before any of them is made.

Python hashes and prints tuples by recursion: a key of two million nested tuples, a file of two
megabytes, ends the interpreter with a segmentation fault. A pickle is a program for a stack
machine, and depths can be computed on that stack in place of the objects.
"""

import pickle
import pickletools
from typing import BinaryIO

DEEPEST = 100  # of the states of networks, about ten
MARK = [-1]
PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
# These put their other arguments into the first one.
FILL = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
# And these leave it as it is.
KEEP = {"DUP", "BINPERSID", "POP", "POP_MARK", "STOP"}


def check_depth(file: BinaryIO, deepest: int = DEEPEST) -> None:
    """Goes through the pickle that begins here, and back to its beginning.

    What is put into a list or dict that is inside another object already does not count there:
    lists and dicts have no hash, and Python ends their recursion with an error.

    Raises:
        ValueError: where an object holds others, and these others, deeper than `deepest`.
        pickle.UnpicklingError: where the pickle is cut short or damaged.
    """
    begin, stack, memo = file.tell(), [], {}
    try:
        for code, argument, _ in pickletools.genops(file):
            if code.name == "MARK":
                stack.append(MARK)
            elif code.name in PUTS:
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif code.name in GETS:
                stack.append(memo[argument])
            elif step(code, stack) > deepest:
                break
        else:
            file.seek(begin)
            return
    except (ValueError, IndexError, KeyError) as error:
        raise pickle.UnpicklingError(str(error) or type(error).__name__) from error
    raise ValueError(f"its objects are nested more than {deepest} deep")


def step(code: pickletools.OpcodeInfo, stack: list[list[int]]) -> int:
    """Does to a stack of depths what an instruction does to that of the objects; the depth of what
    the instruction makes. A depth is a list of one number, which rises when its object is filled.
    """
    taken = [kind.name for kind in code.stack_before]
    held = []
    if "mark" in taken:
        while (node := stack.pop()) is not MARK:
            held.append(node)
        taken = taken[: taken.index("mark")]
    held += [stack.pop() for _ in taken]
    if code.name in KEEP:
        node = held[-1] if held else [0]
    elif code.name in FILL:
        node = held.pop()
        node[0] = max(node[0], 1 + deepest_of(held))
    else:
        node = [1 + deepest_of(held)]
    stack.extend([node] * len(code.stack_after))
    return node[0]


def deepest_of(nodes: list[list[int]]) -> int:
    return max((depth for (depth,) in nodes), default=-1)

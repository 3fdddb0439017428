"""How deeply the objects of a pickle are nested, computed before any object is made.

Python hashes and prints tuples by recursion, so a key of two million nested tuples, a file of two
megabytes, ends the interpreter with a segmentation fault. A pickle is a program for a stack
machine. This module runs the program with depths on the stack in place of objects.
"""

import pickle
import pickletools
from typing import BinaryIO

DEEPEST = 100  # the states of networks have a depth of about ten
MARK = [-1]
PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
# Instructions that put their other arguments into the first one.
FILL = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
# Instructions after which the depth is that of their argument.
KEEP = {"DUP", "BINPERSID", "POP", "POP_MARK", "STOP"}


def check_depth(file: BinaryIO, deepest: int = DEEPEST) -> None:
    """Check the pickle that begins at the position of the file, and return to that position.

    If a list or dict is filled after it was put into another object, the depth of the other object
    is not raised. Lists and dicts have no hash, and Python ends their recursion with an error.

    Raises:
        ValueError: if objects are nested more deeply than `deepest`.
        pickle.UnpicklingError: if the pickle is cut short or damaged.
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
    """Run an instruction on a stack of depths; return the depth of the object that it makes.

    A depth is a list of one number, which rises when the object is filled.
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

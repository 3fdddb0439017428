"""How often does a kernel meet a pixel? The work of a convolution without its padding."""


def taps_inside(size: int, out: int, taps: int, stride: int, before: int) -> int:
    """Along one axis of `size` pixels, the pairs of an output and a tap that read a pixel.

    out: outputs; before: pixels of padding ahead of the first one.
    """
    return sum(
        0 <= stride * position + tap - before < size
        for position in range(out)
        for tap in range(taps)
    )

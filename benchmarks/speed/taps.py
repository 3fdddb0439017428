"""Count the products of a convolution without those on its padding."""


def taps_inside(size: int, out: int, taps: int, stride: int, before: int) -> int:
    """Return the number of pairs (output, tap) that read a pixel, along one axis.

    `size` is the number of pixels, `out` that of outputs, and `before` that of padding pixels ahead
    of the first one.
    """
    return sum(
        0 <= stride * position + tap - before < size
        for position in range(out)
        for tap in range(taps)
    )

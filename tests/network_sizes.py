"""Numbers of parameters of published architectures, counted layer by layer without any network."""


def conv(inputs, outputs, side=3, bias=True):
    return side * side * inputs * outputs + bias * outputs


def dense(inputs, outputs):
    return conv(inputs, outputs, 1)


def attention(c):
    """Count a norm, and the layers for query, key, value and output."""
    return 2 * c + 4 * dense(c, c)


def unet(nf, mults, blocks, side, ddpm=False, fourier=False, told=True, pyramid="none"):
    """Count DDPM, DDPM++ or NCSN++ for RGB images.

    `pyramid` is "none", "residual" (at the input) or "skip" (at input and output). DDPM resamples
    by a convolution. The others resample by a block, whose shortcut is then a convolution too.
    """

    def block(i, o, resamples=False):
        shortcut = dense(i, o) if i != o or resamples else 0
        return 2 * i + conv(i, o) + told * dense(4 * nf, o) + 2 * o + conv(o, o) + shortcut

    def resample(c):
        return conv(c, c) if ddpm else block(c, c, resamples=True)

    def attend(c, level):
        return attention(c) if side >> level == 16 else 0

    embedding = dense((1 + fourier) * nf, 4 * nf) + dense(4 * nf, 4 * nf)
    total = fourier * nf + told * embedding + conv(3, nf)
    c, entering, skips = nf, 3, [nf]
    for level, mult in enumerate(mults):
        for _ in range(blocks):
            total += block(c, nf * mult) + attend(nf * mult, level)
            skips.append(c := nf * mult)
        if level + 1 < len(mults):
            entrance = {"none": 0, "residual": conv(entering, c), "skip": dense(3, c)}
            total += resample(c) + entrance[pyramid]
            entering = c
            skips.append(c)
    total += 2 * block(c, c) + attention(c)
    for level, mult in reversed([*enumerate(mults)]):
        for _ in range(blocks + 1):
            total += block(c + skips.pop(), nf * mult)
            c = nf * mult
        # One attention after all blocks of a level; Ho et al. have one after each block.
        total += attend(c, level) + (resample(c) if level else 0)
        total += 2 * c + conv(c, 3) if pyramid == "skip" or level == 0 else 0
    return total


def refinenet(nf, levels=0, large=False):
    """Count NCSNv2 of 64 px, or of 128 px if `large`; with `levels`, NCSN.

    Norms have three numbers per channel, and in NCSN three per channel and level. Residual blocks
    that lead to a dilated level do not pool, and have a 3x3 shortcut instead of 1x1. Convolutions
    of refinement blocks have no bias, except where they join two inputs; in NCSN each of these
    convolutions follows a norm.
    """
    norm = lambda c: 3 * c * max(levels, 1)
    join = lambda c, o: conv(c, o) + (norm(c) if levels else 0)
    bare = lambda c: conv(c, c, bias=False) + (norm(c) if levels else 0)
    same = lambda c: 2 * norm(c) + 2 * conv(c, c)
    down = lambda i, o, side: 2 * norm(i) + conv(i, i) + conv(i, o) + conv(i, o, side)

    mults = (1, 2, 2, 4, 4) if large else (1, 2, 2, 2)
    back = (4, 2, 2, 1, 1) if large else (2, 2, 2, 1)
    widths = [nf * mult for mult in mults]
    total = conv(3, nf) + 2 * same(nf) + norm(nf) + conv(nf, 3)
    for i, o, dilated in zip(widths, widths[1:], [False] * (len(widths) - 3) + [True] * 2):
        total += down(i, o, 3 if dilated else 1) + same(o)
    below = []
    for c, mult in zip(reversed(widths), back):
        inputs, o = [c, *below], nf * mult
        total += sum(4 * bare(i) for i in inputs)
        total += sum(join(i, o) for i in inputs) if below else 0
        total += 4 * bare(o)  # two with pooling, two in one residual unit
        below = [o]
    return total + 4 * bare(nf)  # the last block ends with two more units

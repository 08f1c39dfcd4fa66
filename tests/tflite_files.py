"""Small TFLite files that tests write operator by operator."""


def add_identity(writer, x, y):
    """Adds a max pooling of one value: it gives back what it gets."""
    writer.add_operator(
        "MAX_POOL_2D",
        [x],
        [y],
        "Pool2DOptions",
        padding="valid",
        strideH=1,
        strideW=1,
        filterHeight=1,
        filterWidth=1,
    )

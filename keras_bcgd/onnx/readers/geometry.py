"""Windows that move over a map."""


def pads(x, window, strides, padding, dilation=None):
    """The padding of a convolution or pooling, as ONNX has it.

    Args:
        x: `Tensor`, a map.
        window: List of ints, its size along each axis.
        strides: List of ints.
        padding: String: `"valid"`, `"same"` or `"causal"`.
        dilation: List of ints, or `None`: 1. Defaults to `None`.

    Returns:
        List of ints, what is before each axis, then what is behind each.
    """
    before, after = [], []
    dilation = dilation or [1] * len(window)
    for size, width, stride, rate in zip(
        x.shape[:-1], window, strides, dilation, strict=True
    ):
        reach = (width - 1) * rate + 1
        whole = 0
        if padding == "same":
            whole = max((-(-size // stride) - 1) * stride + reach - size, 0)
        elif padding == "causal":
            whole = reach - 1
        first = whole if padding == "causal" else whole // 2
        before.append(first)
        after.append(whole - first)
    return before + after

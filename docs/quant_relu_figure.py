"""Draws docs/figures/quant_relu.svg: a QuantReLU and its coarse derivatives.

    KERAS_BACKEND=tensorflow python docs/quant_relu_figure.py

Both are computed by `keras_bcgd.quant_relu`. The file is the same in every run;
another release of matplotlib may write other bytes.
"""

import pathlib

import matplotlib
import numpy as np
import tensorflow as tf

import keras_bcgd
from keras_bcgd.plots import figures

PATH = pathlib.Path(__file__).parent / "figures" / "quant_relu.svg"
BITS, ALPHA = 2, 1.0
TOP = 2**BITS - 1
# The choices of `alpha_gradient`. Lines that lie on each other stay visible.
CHOICES = {
    "ae": (figures.BLUE, "-", 3.0),
    "three_valued": (figures.ORANGE, "-", 1.6),
    "two_valued": (figures.BLACK, ":", 1.6),
}
STYLE = {
    # Names that differ from run to run, and letters as outlines, otherwise.
    "svg.hashsalt": "quant_relu",
    "svg.fonttype": "none",
}


def value_and_derivatives(x, alpha_gradient):
    """sigma(x, alpha), and its coarse derivatives by x and by alpha."""
    x = tf.constant(x, "float32")
    # One alpha for each x: their gradients are not summed.
    alphas = tf.fill(x.shape, ALPHA)
    with tf.GradientTape() as tape:
        tape.watch([x, alphas])
        values = tf.map_fn(
            lambda each: keras_bcgd.quant_relu(*each, BITS, alpha_gradient),
            (x, alphas),
            fn_output_signature=x.dtype,
        )
    by_x, by_alpha = tape.gradient(values, [x, alphas])
    return values.numpy(), by_x.numpy(), by_alpha.numpy()


def draw():
    """The picture, as a `matplotlib.figure.Figure`."""
    # No point lies on a jump.
    x = np.arange(-1.5 * ALPHA, (TOP + 1.5) * ALPHA, ALPHA / 32) + ALPHA / 64
    figure = figures.new_figure(9.0, 2.6)
    value, by_x, by_alpha = figure.subplots(1, 3)
    found = {choice: value_and_derivatives(x, choice) for choice in CHOICES}
    q, slope, _ = found["three_valued"]
    levels = ALPHA * np.arange(TOP + 1), ["0", "α", "2α", "3α"]
    value.plot(x, x.clip(0, TOP * ALPHA), color=figures.GREY, linewidth=1.0)
    value.plot(x, q, color=figures.BLUE, drawstyle="steps-mid")
    value.set_title("σ(x, α)")
    value.set_yticks(*levels)
    by_x.plot(x, slope, color=figures.BLUE, drawstyle="steps-mid")
    by_x.set_title("∂σ/∂x, coarse")
    by_x.set_yticks([0, 1])
    for choice, (color, dashes, width) in CHOICES.items():
        by_alpha.plot(
            x,
            found[choice][2],
            color=color,
            linestyle=dashes,
            linewidth=width,
            drawstyle="steps-mid",
            label=choice,
        )
    by_alpha.set_title("∂σ/∂α, coarse")
    by_alpha.set_yticks(range(TOP + 1))
    figure.legend(title="alpha_gradient", loc="outside right center")
    for ax in figure.axes:
        ax.set_xlabel("x")
        ax.set_xticks(*levels)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def save(path):
    with matplotlib.rc_context(STYLE):
        draw().savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    save(PATH)

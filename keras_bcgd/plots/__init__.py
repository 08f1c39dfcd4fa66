"""Pictures of what quantization does; needs matplotlib, the extra `plots`.

- `codes`: weights before and after the projection.
- `alphas`: the resolutions during training.
- `staircase`: a QuantReLU above the histogram of what it reads.
- `curves`: trainings side by side.
- `figures`: what they share: colours, lines, a figure without a window.

Each function returns a `matplotlib.figure.Figure` that no window manages:
`figure.savefig(path)` writes it, a notebook shows it.
"""

from keras_bcgd.plots.alphas import plot_alphas as plot_alphas
from keras_bcgd.plots.codes import plot_weight_codes as plot_weight_codes
from keras_bcgd.plots.curves import plot_curves as plot_curves
from keras_bcgd.plots.staircase import plot_staircase as plot_staircase

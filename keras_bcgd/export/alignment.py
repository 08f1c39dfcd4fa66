"""Moves a trained model onto the grid of its integer file.

Where a tensor has 256 codes (a residual branch, a QuantIdentity) the integer
bias of the file, and with 8-bit weights its coarse accumulator, cannot put
every threshold where training left it (`bias_intervals`). A code that is off
by one does no harm by itself, but a deep network with few bits amplifies it
from layer to layer. Here the model is moved instead: gamma and beta of each
batch normalization change, by parts of a thousand, until in the integers of
the file no sum lies where kernels or floating point could disagree. Then model
and file compute the same codes.
"""

import dataclasses

import keras
import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import bias_intervals
from keras_bcgd.export.trained_values import output_map
from keras_bcgd.export.trained_values import read_trained

# Floating point in Keras is off by less than this, in parts of one code of
# the weights times one of the input.
_FLOAT_ERROR = 3e-3
# By how much the slope may change, in the first trials and at most.
_SMALL_CHANGES = np.linspace(-5e-4, 5e-4, 41)
_LARGEST_CHANGE = 0.02
# The same where two levels lie less than so many sums apart, as behind a
# depthwise convolution: simple ratios are rare there.
_LARGEST_CHANGE_IF_COARSE = 0.06
_COARSE = 4
_LARGEST_DENOMINATOR = 24
_FARTHEST_BIAS = 9
# How far D may be below an even number, as a part of it: kernels in float32
# must tell them apart.
_SMALLEST_GAP = 4e-7
_LARGEST_GAP = 4e-6
# So many channels decide on the scale of a kernel that they share.
_MOST_CHANNELS = 256
# The least share of outputs next to a threshold: batch normalization need not
# leave a normal distribution, and far from its center never does.
_LEAST_DENSITY = 1e-6
# With more levels no other slope of the file alone fits them all.
_MOST_LEVELS_SEARCHED = 63


@dataclasses.dataclass
class Alignment:
    """How far one layer was moved.

    Attributes:
        name: String, the layer with the weights, or that with the alpha.
        slope_change: Float, the largest relative change of a gamma.
        shift: Float, the largest change of an output, in steps of its grid,
            beside that of the slope.
        default_risk: Float, the expected share of outputs for which the
            default kernels could still give the next code, if sums are
            normally distributed.
        risk: Float, the same for some kernel.
        channels: Int, how many channels were moved.
        alpha_change: Float, the relative change of an alpha
            (`alpha_alignment`).
    """

    name: str
    slope_change: float = 0.0
    shift: float = 0.0
    default_risk: float = 0.0
    risk: float = 0.0
    channels: int = 0
    alpha_change: float = 0.0


def align(planned):
    """Moves the layers of one operator.

    Args:
        planned: `steps.WeightedStep`.

    Returns:
        `Alignment`, or `None`: there is nothing to move.
    """
    node = planned.node
    gamma, beta = _variables(node)
    if beta is None or not planned.output.levels:
        return None
    shared_change = 0.0
    if gamma is None and node.norm is None and node.has_codes:
        shared_change = _align_kernel(planned)
    scale = planned.output.grid.scale
    gap = planned.output.boundaries[0] - planned.output.thresholds[0]
    trained = read_trained(node)
    unit, constant = _units(planned, trained)
    alive = (unit > scale / 2.0**22) & np.any(trained.codes, axis=0)
    # Of the outputs, as the file rounds them, in units of the accumulator.
    center, spread = _distribution(node)
    slope, shift = output_map(node)  # of a hard sigmoid
    center, spread = slope * center + shift, slope * spread
    center = center + planned.output.shift + gap * scale
    weights = arithmetic.quantize_weights(
        trained,
        planned.grid,
        planned.output,
        planned.mult,
        planned.roundings,
        search=planned.output.levels <= _MOST_LEVELS_SEARCHED,
    )
    moved = np.zeros(len(unit), bool)
    start = (constant + gap * scale) / np.where(alive, unit, 1.0)
    biases, changes, defaults, risks = np.zeros((4, len(unit)))
    for c in np.flatnonzero(alive):
        channel = _Channel(
            planned,
            step=scale / unit[c],
            bias=start[c],
            center=center[c] / unit[c],
            spread=spread[c] / unit[c],
        )
        if weights.is_exact[c] and not channel.float_risk(gap):
            continue
        found = channel.search(gamma is not None)
        if found is not None:
            moved[c] = True
            biases[c], changes[c], defaults[c], risks[c] = found
    if not np.any(moved) and not shared_change:
        return None
    if gamma is not None:
        gamma.assign(keras.ops.convert_to_numpy(gamma) / (1 + changes))
    unit, now = _units(planned, read_trained(node))
    shift = np.where(moved, biases * unit - gap * scale - now, 0.0)
    beta.assign(keras.ops.convert_to_numpy(beta) + shift / slope)
    return Alignment(
        name=node.layer.name,
        slope_change=float(max(abs(shared_change), np.abs(changes).max())),
        shift=float(np.max(np.abs(biases - start) * unit * moved) / scale),
        default_risk=float(defaults.mean()),
        risk=float(risks.mean()),
        channels=int(moved.sum()),
    )


def _align_kernel(planned):
    """Moves the scale of a kernel without batch normalization behind it.

    All its channels have one slope: with the right ratio of scales each finds
    a bias.

    Returns:
        Float, the relative change of the scale.
    """
    node = planned.node
    trained = read_trained(node)
    unit, constant = _units(planned, trained)
    alive = (unit > 0) & np.any(trained.codes, axis=0)
    if not np.any(alive) or np.ptp(unit[alive]) > 1e-6 * unit[alive].max():
        return 0.0  # one scale for each channel
    step = planned.output.grid.scale / unit[alive][0]
    channels = [
        _Channel(planned, step, bias, 0.0, np.inf)
        for bias in np.unique(constant[alive] / unit[alive])
    ][:_MOST_CHANNELS]
    changes = np.append(0.0, channels[0].to_ratios())
    changes = changes[np.argsort(np.abs(changes), kind="stable")]
    risks = sum(channel.least_risks(changes) for channel in channels)
    change = float(changes[np.argmin(risks)])
    if change:
        node.layer.kernel.assign(
            keras.ops.convert_to_numpy(node.layer.quantized_kernel)
            / (1 + change)
        )
        node.layer.kernel_is_quantized.assign(node.layer.kernel_projection.mark)
        node.kernel = None  # to be read again
    return change


def _variables(node):
    """gamma and beta, or what there is in their place; `None`: nothing."""
    if not node.is_convolution:
        return None, None
    if node.norm is not None:
        norm = node.norm
        return norm.gamma if norm.scale else None, norm.beta
    return None, node.layer.bias if node.layer.use_bias else None


def _units(planned, trained):
    """What one unit of the accumulator is, and the constant to be reached."""
    constant = arithmetic.shifted_constant(
        trained, planned.grid, planned.output
    )
    return np.abs(trained.slope) * planned.grid.scale / planned.mult, constant


def _distribution(node):
    """Mean and deviation of each channel, as batch normalization leaves it."""
    gamma, beta = _variables(node)
    beta = np.float64(keras.ops.convert_to_numpy(beta))
    if node.norm is None:
        return beta, np.full(beta.shape, np.inf)
    if gamma is None:
        return beta, np.ones(beta.shape)
    return beta, np.abs(np.float64(keras.ops.convert_to_numpy(gamma)))


class _Channel:
    """One channel, in units of the accumulator.

    Args:
        planned: `steps.WeightedStep`.
        step: Float, D, what training left.
        bias: Float, the bias that training left.
        center: Float, the mean of the sums.
        spread: Float, their deviation; infinite if unknown.
    """

    def __init__(self, planned, step, bias, center, spread):
        self.mult = planned.mult
        self.roundings = planned.roundings
        self.step, self.bias = step, bias
        is_coarse = step < _COARSE * self.mult
        self.largest_change = (
            _LARGEST_CHANGE_IF_COARSE if is_coarse else _LARGEST_CHANGE
        )
        # What an output in steps of the grid changes with the slope.
        self.far = (abs(center) + 3 * min(spread, 100 * step)) / step
        boundaries = planned.output.boundaries
        density = np.full(len(boundaries), 1 / len(boundaries))
        if np.isfinite(spread):
            spread = max(spread, 1e-9)
            z = (boundaries * step - center) / spread
            density = self.mult / (spread * np.sqrt(2 * np.pi))
            density = density * np.exp(-(z**2) / 2)
        self.boundaries = boundaries
        self.density = np.maximum(density, _LEAST_DENSITY)

    def float_risk(self, gap):
        """The share of outputs where floating point may decide in Keras."""
        bias = self.bias - gap * self.step
        distance = (self.boundaries - gap) * self.step - bias
        margin = _FLOAT_ERROR * self.mult
        high = np.floor((distance + margin) / self.mult)
        is_hit = high >= np.ceil((distance - margin) / self.mult)
        return is_hit @ self.density

    def search(self, can_change):
        """The bias and the slope with the least risk.

        What was aligned before stays, unless there is a place with half its
        risk. So a second alignment moves next to nothing.

        Returns:
            `(bias, change, default risk, risk)` as of `best`, or `None`: it
            stays.
        """
        if self.mult == 1 and can_change and self.boundaries[0] > 0:
            found = self._to_even()
            if found is not None:
                return found
        present, found, total = self._present(), None, 1.0
        while present is None or present[3] > 0:
            better = self._search_once(can_change)
            change = total * (1 + better[1])
            if present is not None and (
                better[3] > present[3] / 2
                or abs(change - 1) > self.largest_change
            ):
                break
            total = change
            self.bias, self.step = better[0], self.step * (1 + better[1])
            present = found = better
        return found and (found[0], total - 1, *found[2:])

    def _present(self):
        """The present place as of `best`, or `None`: it is not aligned."""
        bias = np.round(self.bias - self._early(self.step))
        off = self.bias - self._early(self.step) - bias
        if abs(off) > _FLOAT_ERROR * self.mult / 4:
            return None
        steps = np.array([self.step])
        risks = (
            float(self._risks(bias.reshape(1, 1), steps, roundings)[0, 0])
            for roundings in (self.roundings[:1], self.roundings)
        )
        return self.bias, 0.0, *risks

    def _early(self, step):
        """What training has in the place of kernels that are early."""
        if bias_intervals.ONCE == self.roundings[0]:
            return 0.0
        return bias_intervals.earliness(step) * step

    def _search_once(self, can_change):
        """`best` of no change, of small ones, or of those to ratios."""
        found = self.best(np.zeros(1))
        ratios = self.to_ratios(), self.to_ratios(self.largest_change)
        for changes in (_SMALL_CHANGES, *ratios):
            # No ratio is near a D much smaller than `mult`.
            if can_change and changes.size and found[3] > 0:
                found = min(found, self.best(changes), key=lambda f: f[2:])
        return found

    def to_ratios(self, largest_change=_LARGEST_CHANGE):
        """The changes that make D a simple ratio times `mult`.

        With D = mult * p / q the thresholds (c + 1/2) * D lie at no more than
        2 q places between the sums, which are `mult` apart: few enough to
        avoid all of them at once.
        """
        q = np.arange(1, _LARGEST_DENOMINATOR + 1)
        p = np.round(self.step * q / self.mult) + np.array([[-1], [0], [1]])
        changes = np.unique(self.mult * p / q / self.step - 1)
        return changes[np.abs(changes) <= largest_change]

    def _to_even(self):
        """D a little below an even number, for weights of 8 bits.

        Their sums are all whole numbers. The one at (c + 1/2) * D is then just
        beyond the threshold and the one before it a whole unit below, farther
        than kernels in fixed point are early. (Below 0 some of these are
        early and some late: there is no such place.)
        """
        even = 2 * np.round(self.step / 2) + np.array([0, -2, 2, -4, 4])
        for p in even[even > 0]:
            early = bias_intervals.earliness(p) * p
            room = (0.9 - early) / np.abs(self.boundaries * p).max()
            below = min(room / 2, _LARGEST_GAP)
            change = p * (1 - below) / self.step - 1
            if below > _SMALLEST_GAP and abs(change) <= _LARGEST_CHANGE:
                bias = np.round(self.bias - 0.5) + 0.5
                return bias, change, 0.0, 0.0
        return None

    def least_risks(self, changes):
        """The least risk at each change, of all biases."""
        return self._risks(
            self._biases(), self.step * (1 + changes), self.roundings
        ).min(axis=0)

    def _biases(self):
        # Biases that differ by `mult` are alike.
        farthest = min(_FARTHEST_BIAS, self.mult // 2)
        reach = np.arange(-farthest, farthest + 1)
        return np.round(self.bias) + reach[:, None]

    def best(self, changes):
        """The nearest bias and slope with which no sum is in a zone.

        Args:
            changes: Array of the relative changes of D to be tried.

        Returns:
            `(bias, change, default risk, risk)`: the bias as training has it,
            which is not that of the file where its kernels are early.
        """
        biases = self._biases()
        steps = self.step * (1 + changes)
        # The default kernels first, then all, whose risk is never smaller.
        risks = self._risks(biases, steps, self.roundings)
        first = risks
        if risks.min() > 0:
            first = self._risks(biases, steps, self.roundings[:1])
        moves = np.abs(biases - self.bias) / self.step
        moves = moves + np.abs(changes) * self.far
        score = 1e3 * first + risks + 1e-6 * moves
        i, j = np.unravel_index(np.argmin(score), score.shape)
        bias = biases[i, 0] + self._early(steps[j])
        return bias, changes[j], first[i, j], risks[i, j]

    def _risks(self, biases, steps, roundings):
        """The share of outputs in a zone, for each bias and each D."""
        ends = bias_intervals.zones(self.boundaries, steps, roundings)
        low, high = (end * steps[:, None] / self.mult for end in ends)
        width = high - low + 2 * _FLOAT_ERROR
        first = low - _FLOAT_ERROR - biases[..., None] / self.mult
        is_hit = np.ceil(first) - first <= width  # by a whole number, a sum
        return is_hit @ self.density

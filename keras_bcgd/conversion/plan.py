"""What becomes of each layer of a float model: decisions, nothing done yet.

The rules follow `keras_bcgd.export`: what is an 8-bit tensor in the integer
file and has no QuantReLU gets a QuantIdentity, or the branch of a QuantAddReLU,
so that training rounds it too.
"""

import dataclasses

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd import tables
from keras_bcgd.activations import largest_level
from keras_bcgd.conversion import network
from keras_bcgd.conversion import settings as settings_lib
from keras_bcgd.conversion.network import OUTPUT
from keras_bcgd.export import support

QUANTIZED_KERNELS = {
    keras.layers.Conv2D: quant_layers.QuantConv2D,
    keras.layers.DepthwiseConv2D: quant_layers.QuantDepthwiseConv2D,
    keras.layers.Dense: quant_layers.QuantDense,
    keras.layers.SeparableConv2D: quant_layers.QuantConv2D,
}
OUR_LAYERS = (
    quant_layers.QuantKernel,
    quant_layers.QuantReLU,
    quant_layers.QuantIdentity,
)
_LINEAR = (None, keras.activations.linear)
# What reads an 8-bit tensor as it is.
_INTEGER_READERS = (
    *QUANTIZED_KERNELS,
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    *support.AVERAGES,
)


@dataclasses.dataclass
class PlannedLayer:
    """What becomes of one layer.

    Attributes:
        name: String, its path in the model.
        kind: String, its class.
        layer: The Keras layer; `None`: an operation that is not a layer.
        settings: `Settings`.
        kernel: Class of the layer with the quantized kernel, or `None`.
        staircase: Boolean. Whether it becomes, or is followed by, a QuantReLU.
        identity: Boolean. Whether a QuantIdentity follows it.
        add_relu: Dict, the arguments of the QuantAddReLU that it becomes.
        reversed: Boolean. Whether the operands of that one are exchanged.
        absorbed: String or `None`, the addition into which its ReLU goes.
        problems: List of strings, why something of it stays float.
    """

    name: str
    kind: str
    layer: keras.layers.Layer | None
    settings: settings_lib.Settings
    kernel: type | None = None
    staircase: bool = False
    identity: bool = False
    add_relu: dict | None = None
    reversed: bool = False
    absorbed: str | None = None
    problems: list = dataclasses.field(default_factory=list)

    @property
    def weight_bits(self):
        """Int, `None` where it has no quantized weights."""
        return self.settings.weight_bits if self.kernel else None

    @property
    def activation_bits(self):
        """Int, the bits of its output, `None` where nothing rounds it."""
        if self.add_relu is not None:
            return self.add_relu["bits"]
        if self.staircase:
            return self.settings.activation_bits
        return self.settings.branch_bits if self.identity else None

    @property
    def becomes(self):
        """String, the layers that take its place; empty: a copy of it."""
        if self.absorbed is not None:
            return f"in {self.absorbed}"
        if self.add_relu is not None:
            return "QuantAddReLU"
        parts = []
        if self.kernel is not None:
            if isinstance(self.layer, keras.layers.SeparableConv2D):
                parts.append("QuantDepthwiseConv2D")
            parts.append(self.kernel.__name__)
        elif self.identity or (self.staircase and self.layer_has_kernel):
            parts.append(self.kind)
        if self.staircase:
            parts.append("QuantReLU")
        if self.identity:
            parts.append("QuantIdentity")
        return " + ".join(parts)

    @property
    def layer_has_kernel(self):
        """Whether the ReLU is the activation of a layer with weights."""
        return type(self.layer) in QUANTIZED_KERNELS


@dataclasses.dataclass
class ConversionPlan:
    """What `quantize_model` will do; printed, a table.

    Attributes:
        layers: List of `PlannedLayer`, in the order in which they run.
    """

    layers: list

    @property
    def left_in_float(self):
        """List of strings, what cannot be quantized: why, and which layers."""
        names = {}
        for row in self.layers:
            for problem in row.problems:
                names.setdefault(problem, []).append(f"'{row.name}'")
        return [f"{why}: {', '.join(who)}" for why, who in names.items()]

    def __str__(self):
        header = ["layer", "type", "becomes", "W bits", "A bits", "note"]
        rows = [header]
        for row in self.layers:
            bits = [row.weight_bits, row.activation_bits]
            cells = ["-" if b is None else str(b) for b in bits]
            becomes = row.becomes or "-"
            note = "; ".join(row.problems)
            rows.append([row.name, row.kind, becomes, *cells, note])
        # The note is as long as it is: no column is made for it.
        lines = tables.columns([row[:-1] for row in rows], left=3)
        return "\n".join(
            f"{line}  {row[-1]}".rstrip()
            for line, row in zip(lines, rows, strict=True)
        )


def make_plan(nodes, base, first_last, overrides):
    """Decides for every layer.

    Args:
        nodes: Dict of `network.Node`.
        base: `Settings` of all layers.
        first_last: Int or `None`, see `quantize_model`.
        overrides: `Overrides`.

    Returns:
        `ConversionPlan`.
    """
    return _Planner(nodes, base, first_last, overrides).plan()


class _Planner:
    def __init__(self, nodes, base, first_last, overrides):
        self.nodes = nodes
        self.walker = network.Walker(nodes)
        self.base = base
        self.first_last = first_last
        self.overrides = overrides
        self.rows = {}

    def plan(self):
        first, last = self.walker.first_and_last()
        for path, node in self.nodes.items():
            if node.kind == "InputLayer":
                continue
            is_end = path in first | last
            settings = self._settings(node, is_end)
            row = PlannedLayer(path, node.kind, node.layer, settings)
            self.rows[path] = row
            self._plan_kernel(row, node)
            self._plan_activation(row, node)
        self.overrides.check_all_used()
        for node in self.nodes.values():
            if type(node.layer) is keras.layers.Add:
                self._plan_add(node)
        for path, row in self.rows.items():
            node = self.nodes[path]
            row.identity = row.settings.has_branches and self._is_open(node)
        return ConversionPlan(list(self.rows.values()))

    def _settings(self, node, is_end):
        settings = self.base
        if is_end and self.first_last is not None:
            settings = dataclasses.replace(
                settings, weight_bits=self.first_last, projection="lloyd"
            )
        if node.layer is None:
            return settings
        names = _names_of(node.layer)
        return self.overrides.apply(settings, node.path, node.layer, names)

    # Each layer by itself

    def _plan_kernel(self, row, node):
        if not node.has_kernel:
            return
        layer, kind = node.layer, type(node.layer)
        if kind not in QUANTIZED_KERNELS:
            row.problems.append(
                f"{node.kind} has no quantized form, its weights stay float"
            )
        elif getattr(layer, "lora_rank", None):
            row.problems.append("LoRA needs float weights")
        elif getattr(layer, "quantization_mode", None):
            row.problems.append("Keras has quantized its weights already")
        elif row.settings.has_codes:
            row.kernel = QUANTIZED_KERNELS[kind]

    def _plan_activation(self, row, node):
        if node.layer is None:
            row.problems.append("no layer but an operation: stays float")
            return
        if _is_relu(node.layer):
            row.staircase = row.settings.has_staircase
            return
        name = _other_activation(node.layer)
        ends = self.walker.readers(node) == [OUTPUT]
        if name is not None and not (ends or support.is_softmax(node.layer)):
            row.problems.append(
                f"{name} has no quantized form, its output stays float"
            )

    # Additions before a ReLU

    def _plan_add(self, node):
        """A QuantAddReLU, where the file would round a branch."""
        readers = self.walker.readers(node)
        if node.calls != 1 or len(readers) != 1 or len(node.sources) != 2:
            return
        (relu,) = readers
        if relu is OUTPUT or relu.model != node.model or relu.layer is None:
            return
        row = self.rows[relu.path]
        if not (row.staircase and row.settings.has_branches):
            return
        if not self.rows[node.path].settings.has_branches:
            return
        if type(relu.layer) in QUANTIZED_KERNELS or relu.calls != 1:
            return
        if node.shapes[0] != node.shapes[1]:
            return
        open_ = [i for i in (0, 1) if self._is_branch(node, i)]
        target = self.rows[node.path]
        target.add_relu = {
            "bits": row.settings.activation_bits,
            "branch_bits": row.settings.branch_bits,
            "shortcut_is_branch": len(open_) == 2,
            "alpha_gradient": row.settings.alpha_gradient,
            "alpha_initializer": row.settings.alpha_initializer,
            "name": relu.layer.name,
        }
        target.reversed = open_ == [1]
        row.absorbed, row.staircase = node.path, False

    def _is_branch(self, node, index):
        """Whether the addition alone reads an operand that nothing rounds."""
        source = self.walker.source(node, index)
        return self._ends_a_sum(source) and self.walker.readers(source) == [
            node
        ]

    # Tensors that are 8-bit in the file

    def _ends_a_sum(self, node):
        """Whether a node computes numbers that nothing has rounded yet."""
        kind = type(node.layer)
        if kind in QUANTIZED_KERNELS:
            return node.layer.activation in _LINEAR
        if kind is keras.layers.Add:
            return self.rows[node.path].add_relu is None
        if kind in support.AVERAGES:
            return not self._is_exact_average(node)
        return kind is keras.layers.BatchNormalization

    def _is_open(self, node):
        """Whether nothing rounds what a node computes, and the file must."""
        if not self._ends_a_sum(node):
            return False
        readers = self.walker.readers(node)
        if not readers or OUTPUT in readers:
            return False
        kinds = {type(reader.layer) for reader in readers}
        if len(readers) == 1 and kinds == {keras.layers.BatchNormalization}:
            # Folded, if it is the layer with weights.
            if type(node.layer) in QUANTIZED_KERNELS:
                return False
        if len(readers) == 1 and self._is_add_relu(readers[0]):
            return not self._is_operand_open(readers[0], node)
        reader = self.walker.sole_reader(node)
        if reader is not None and (reader is OUTPUT or _rounds(reader)):
            return False
        return all(self._takes_integers(reader) for reader in readers)

    def _is_add_relu(self, node):
        row = self.rows[node.path]
        return row.add_relu is not None

    def _is_operand_open(self, add, node):
        """Whether a QuantAddReLU rounds an operand itself."""
        arguments = self.rows[add.path].add_relu
        index = [self.walker.source(add, i).path for i in (0, 1)].index(
            node.path
        )
        branch = int(self.rows[add.path].reversed)
        return index == branch or arguments["shortcut_is_branch"]

    def _takes_integers(self, node):
        seen = set()
        while type(node.layer) in support.COMMUTING:
            readers = [r for r in self.walker.readers(node) if r is not OUTPUT]
            if not readers or node.path in seen:
                return False
            seen.add(node.path)
            node = readers[0]
        if isinstance(node.layer, _INTEGER_READERS) or _is_relu(node.layer):
            return True
        return False

    def _is_exact_average(self, node):
        """Whether the mean of codes needs no rounding of its own."""
        if type(node.layer) is keras.layers.GlobalAveragePooling2D:
            return True  # exact before the last dense layer, see export.means
        source = self.walker.source(node)
        while type(source.layer) in support.COMMUTING:
            source = self.walker.source(source)
        row = self.rows.get(source.path)
        if row is None or not (row.staircase or row.add_relu):
            return False
        count = network.window_size(node)
        return largest_level(row.activation_bits) * count <= 255


def _names_of(layer):
    """The names of the settings that matter to a layer."""
    names = ()
    if type(layer) in QUANTIZED_KERNELS:
        names += settings_lib.OF_WEIGHTS
    if _is_relu(layer):
        names += settings_lib.OF_ACTIVATIONS
    if names or isinstance(layer, _INTEGER_READERS):
        names += settings_lib.OF_BRANCHES
    return names


def _is_relu(layer):
    """Whether a QuantReLU can take the place of what it computes at the end."""
    if type(layer) is keras.layers.ReLU:
        return not (layer.negative_slope or layer.threshold)
    kinds = (keras.layers.Activation, *QUANTIZED_KERNELS)
    return type(layer) in kinds and support.has_relu(layer)


def _rounds(node):
    """Whether a node is an activation: its kind decides what is before it."""
    return (
        node.layer is not None
        and _is_relu(node.layer)
        and (type(node.layer) not in QUANTIZED_KERNELS)
    )


_ACTIVATIONS = (
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)


def _other_activation(layer):
    """The name of an activation that is no ReLU, or `None`."""
    if isinstance(layer, _ACTIVATIONS):
        return type(layer).__name__
    activation = getattr(layer, "activation", None)
    if activation in _LINEAR or not callable(activation):
        return None
    if activation is keras.activations.softmax:
        return None
    return getattr(activation, "__name__", type(activation).__name__)

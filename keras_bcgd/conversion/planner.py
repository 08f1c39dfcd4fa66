"""What becomes of each layer of a float model: the decisions.

The rules follow `keras_bcgd.export`: what is an 8-bit tensor in the integer
file and has no QuantReLU gets a QuantIdentity, or the branch of a QuantAddReLU,
so that training rounds it too.
"""

import dataclasses
import math

import keras

from keras_bcgd.activations import largest_level
from keras_bcgd.conversion import kinds
from keras_bcgd.conversion.plan import ConversionPlan
from keras_bcgd.conversion.plan import PlannedLayer
from keras_bcgd.network import borders
from keras_bcgd.network import graph
from keras_bcgd.network import interpolation
from keras_bcgd.network import traits
from keras_bcgd.network.graph import OUTPUT
from keras_bcgd.pointwise import SMALLEST


def make_plan(nodes, base, first_last, overrides):
    """Decides for every layer.

    Args:
        nodes: Dict of `graph.LayerNode`.
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
        self.walker = graph.Walker(nodes)
        self.base = base
        self.first_last = first_last
        self.overrides = overrides
        self.rows = {}

    def plan(self):
        for path, node in self.nodes.items():
            if node.kind == "InputLayer":
                continue
            settings = self._settings(node)
            row = PlannedLayer(path, node.kind, node.layer, settings)
            row.also = node.paths[1:]
            row.operation = node.operation
            self.rows[path] = row
            self._plan_kernel(row, node)
            self._plan_activation(row, node)
        self.overrides.check_all_used()
        for node in self.nodes.values():
            if type(node.layer) is keras.layers.Add:
                self._plan_add(node)
            elif type(node.layer) is keras.layers.Multiply:
                self._plan_product(node)
            elif node.kind == "Multiply" and node.layer is None:
                self._plan_hard_sigmoid(node)
        for path, row in self.rows.items():
            node = self.nodes[path]
            row.identity = row.settings.has_branches and self._is_open(node)
        return ConversionPlan(list(self.rows.values()))

    def _settings(self, node):
        settings = self.base
        has_first_last = settings.has_codes and self.first_last is not None
        if node.is_end and has_first_last:
            settings = dataclasses.replace(
                settings, weight_bits=self.first_last, projection="lloyd"
            )
        if node.layer is None:
            return settings
        names = kinds.names_of(node.layer)
        return self.overrides.apply(settings, node.paths, node.layer, names)

    # Each layer by itself

    def _plan_kernel(self, row, node):
        if not node.has_kernel:
            return
        layer, kind = node.layer, type(node.layer)
        if kind not in kinds.QUANTIZED_KERNELS:
            row.problems.append(
                f"{node.kind} has no quantized form, its weights stay float"
            )
        elif getattr(layer, "lora_rank", None):
            row.problems.append("LoRA needs float weights")
        elif row.settings.has_codes:
            row.kernel = kinds.QUANTIZED_KERNELS[kind]

    def _plan_activation(self, row, node):
        if node.layer is None:
            row.problems.append(kinds.problem_of_operation(node))
            return
        if kinds.is_relu(node.layer):
            row.staircase = row.settings.has_staircase
            if row.staircase and kinds.largest_of_relu(node.layer) == 0:
                raise ValueError(
                    f"The layer '{node.path}' ({node.kind}) must have a "
                    "`max_value` above 0 or None: else its output is 0. "
                    "Received: max_value=0"
                )
            return
        ends = self.walker.readers(node) == [OUTPUT]
        final = traits.final_kind(node.layer)
        is_softmax = final == "softmax"
        function = kinds.function_of(node.layer)
        if function is not None:
            if not (ends and final) and row.settings.has_branches:
                row.function = function
            return
        problem = kinds.problem_of_activation(node.layer)
        if problem is not None and not (ends or is_softmax):
            row.problems.append(problem)

    # Products

    def _plan_product(self, node):
        """A QuantMultiply, of two tensors of as many axes."""
        row = self.rows[node.path]
        if not row.settings.has_branches:
            return
        ranks = {len(shape) for shape in node.shapes}
        if node.calls != 1 or len(node.sources) != 2 or len(ranks) != 1:
            row.problems.append(
                "Multiply stays float: it needs two tensors of as many axes"
            )
            return
        row.product = True
        ends = [self._range(self.walker.source(node, i)) for i in (0, 1)]
        (low, high), (other_low, other_high) = ends
        if low == other_low == 0.0:
            row.minimum = 0.0
        elif other_low == 0.0 and other_high == 1.0:
            row.minimum = low
        elif low == 0.0 and high == 1.0:
            row.minimum = other_low

    def _range(self, node):
        """`(smallest, largest)` of what a node computes; `None`: unknown."""
        row = self.rows.get(self._before_commuting(node).path)
        if row is None:
            return None, None
        if row.staircase:
            return 0.0, None
        if row.function in ("sigmoid", "hard_sigmoid"):
            return 0.0, 1.0
        return SMALLEST.get(row.function, row.minimum), None

    def _plan_hard_sigmoid(self, node):
        """Three layers that compute relu6(x + 3) / 6, as in MobileNetV3."""
        row = self.rows[node.path]
        if node.calls != 1 or len(node.sources) != 1:
            return
        relu = self.nodes[node.sources[0]]
        if not (
            type(relu.layer) is keras.layers.ReLU
            and relu.layer.max_value == 6
            and relu.calls == len(relu.readers) == 1
            and row.settings.has_branches
            and [round(6 * n, 6) for n in node.numbers] == [1]
        ):
            return
        shift = self.nodes[relu.sources[0]]
        if (
            shift.layer is None
            and shift.kind == "Add"
            and shift.calls == len(shift.readers) == len(shift.sources) == 1
            and shift.numbers == [3]
        ):
            row.function, row.problems = "hard_sigmoid", []
            for part in (shift, relu):
                absorbed = self.rows[part.path]
                absorbed.absorbed, absorbed.problems = node.path, []
                absorbed.staircase = False

    # Additions before a ReLU

    def _plan_add(self, node):
        """A QuantAddReLU, where the file would round a branch."""
        if node.calls != 1 or len(node.readers) != 1 or len(node.sources) != 2:
            return
        relu = self.nodes.get(node.readers[0])
        if relu is None or relu.model != node.model or relu.layer is None:
            return
        row = self.rows[relu.path]
        if not (row.staircase and row.settings.has_branches):
            return
        if not self.rows[node.path].settings.has_branches:
            return
        if type(relu.layer) in kinds.QUANTIZED_KERNELS or relu.calls != 1:
            return
        if node.shapes[0] != node.shapes[1]:
            return
        if node.layer.activity_regularizer is not None:
            return  # of the sum, which a QuantAddReLU does not show
        open_ = [i for i in (0, 1) if self._is_branch(node, i)]
        row.has_addition = True
        row.shortcut_is_branch = len(open_) == 2
        self.rows[node.path].absorbed = relu.path
        self.rows[node.path].reversed = open_ == [1]

    def _is_branch(self, node, index):
        """Whether the addition alone reads an operand that nothing rounds."""
        source = self.walker.source(node, index)
        if type(source.layer) is keras.layers.Concatenate:
            return False  # the file rounds its parts
        return self._ends_a_sum(source) and self.walker.readers(source) == [
            node
        ]

    # Tensors that are 8-bit in the file

    def _ends_a_sum(self, node):
        """Whether a node computes numbers that nothing has rounded yet."""
        kind = type(node.layer)
        if kind in kinds.QUANTIZED_KERNELS:
            return node.layer.activation in kinds.LINEAR
        if kind is keras.layers.Multiply:
            return not self.rows[node.path].product
        if kind is keras.layers.Add:
            return not self._is_absorbed(node)
        if kind in traits.AVERAGES or interpolation.has_parts(node.layer):
            return not self._is_exact_average(node)
        if kind is keras.layers.Concatenate:
            return not self._is_on_one_grid(node)
        return kind is keras.layers.BatchNormalization

    def _is_open(self, node):
        """Whether nothing rounds what a node computes, and the file must."""
        if not self._ends_a_sum(node):
            return False
        readers = self.walker.readers(node)
        if OUTPUT in readers:
            readers = [reader for reader in readers if reader is not OUTPUT]
            # What is read inside as well is not left in 16 bits.
            inside = map(self._takes_integers, readers)
            return bool(readers) and all(inside)
        if not readers:
            return False
        sole = readers[0] if len(readers) == 1 else None
        if sole is not None and (
            type(sole.layer) is keras.layers.BatchNormalization
            and type(node.layer) in kinds.QUANTIZED_KERNELS
        ):
            return False  # folded
        if sole is not None and self._rounds_its_parts(sole):
            return type(node.layer) is keras.layers.Concatenate
        if sole is not None and self._is_absorbed(sole):
            return not self._is_operand_open(sole, node)
        reader = self.walker.sole_reader(node)
        if reader is OUTPUT:
            return False
        if reader is not None and self._rounds(reader):
            return self._pads_before_hard_sigmoid(node, reader)
        return all(self._takes_integers(reader) for reader in readers)

    def _pads_before_hard_sigmoid(self, node, reader):
        """Whether zeros come between a node and the hard sigmoid behind it.

        Its value there is 1/2: the file cannot round before the padding.
        """
        row = self.rows[reader.path]
        row = self.rows.get(row.absorbed, row)
        if row.function != "hard_sigmoid":
            return False
        while node is not reader:
            (node,) = self.walker.readers(node)
            kind = traits.COMMUTING.get(type(node.layer))
            if kind in ("pad", "pad_channels"):
                return True
        return False

    def _is_absorbed(self, node):
        """Whether a node is the addition of a QuantAddReLU."""
        return self.rows[node.path].absorbed is not None

    def _is_operand_open(self, add, node):
        """Whether a QuantAddReLU rounds an operand itself."""
        row = self.rows[add.path]
        branch = self.walker.source(add, int(row.reversed))
        return node is branch or self.rows[row.absorbed].shortcut_is_branch

    def _takes_integers(self, node):
        seen = set()
        while traits.commutes(node.layer):
            readers = [r for r in self.walker.readers(node) if r is not OUTPUT]
            if not readers or node.path in seen:
                return False
            seen.add(node.path)
            node = readers[0]
        return isinstance(node.layer, kinds.INTEGER_READERS) or self._rounds(
            node
        )

    def _rounds(self, node):
        """Whether what a node reads alone is rounded by it."""
        row = self.rows.get(node.path)
        if row is not None and row.absorbed in self.rows:
            # The first of those that are one hard sigmoid.
            return self.rows[row.absorbed].function is not None
        return kinds.rounds(node)

    def _rounds_its_parts(self, node):
        """Whether what follows a concatenation alone rounds all its parts."""
        if type(node.layer) is not keras.layers.Concatenate or node.calls != 1:
            return False
        reader = self.walker.sole_reader(node)
        if reader not in (None, OUTPUT) and self._rounds(reader):
            return True
        row = self.rows[node.path]
        return row.settings.has_branches and self._is_open(node)

    def _is_on_one_grid(self, node):
        """Whether all that a concatenation reads comes from one QuantReLU."""
        sources = set()
        for index in range(len(node.sources)):
            source = self._before_commuting(self.walker.source(node, index))
            row = self.rows.get(source.path)
            if row is None or not row.staircase:
                return False
            sources.add(source.path)
        return len(sources) == 1

    def _before_commuting(self, node):
        """The last node before poolings and the like, with which codes pass."""
        while traits.commutes(node.layer) and graph.has_one_source(node):
            node = self.walker.source(node)
        return node

    def _is_exact_average(self, node):
        """Whether the mean of codes needs no rounding of its own."""
        is_global = type(node.layer) in traits.GLOBAL_AVERAGES
        if is_global and self._feeds_the_logits(node):
            return True  # exact, see export.means
        if borders.has_parts(node.layer):
            return False  # several counts, and one grid for all
        source = self._before_commuting(self.walker.source(node))
        row = self.rows.get(source.path)
        if row is None or not row.staircase:
            return False
        if is_global:
            count = math.prod(node.shapes[0][1:-1])
        else:
            count = graph.window_size(node)
        return largest_level(row.activation_bits) * count <= 255

    def _feeds_the_logits(self, node):
        """Whether only the last layers with weights read what a node computes.

        Over reshapes; or only the output does.
        """
        readers = self.walker.readers(node)
        return readers == [OUTPUT] or all(
            reader is not OUTPUT and self._leads_to_logits(reader)
            for reader in readers
        )

    def _leads_to_logits(self, node):
        if type(node.layer) in kinds.QUANTIZED_KERNELS:
            return self._computes_logits(node)
        is_reshape = traits.COMMUTING.get(type(node.layer)) == "reshape"
        return is_reshape and self._feeds_the_logits(node)

    def _computes_logits(self, node):
        """Whether only reshapes, and what may end a model, follow a node."""
        if kinds.is_relu(node.layer) or self.rows[node.path].function:
            return False
        while True:
            readers = self.walker.readers(node)
            if readers == [OUTPUT]:
                return True
            if len(readers) != 1:
                return False
            (node,) = readers
            is_reshape = traits.COMMUTING.get(type(node.layer)) == "reshape"
            if not is_reshape and traits.final_kind(node.layer) is None:
                return False

"""An ONNX file being written: nodes, constants and the shapes of tensors."""

import numpy as np

from keras_bcgd.onnx.tensor import Tensor
from keras_bcgd.onnx.tensor import to_first
from keras_bcgd.onnx.tensor import to_last

# The first with DequantizeLinear for each channel; what FINN and hls4ml read.
OPSET = 13
IR_VERSION = 8
PRODUCER = "keras-bcgd"
BATCH = "batch"


def load_onnx():
    """The module `onnx`.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "ONNX files are written by `onnx`, which is not installed. Install "
            "it with `pip install keras-bcgd[onnx]`."
        ) from error
    return onnx


class OnnxFile:
    """What all readers need to write.

    Args:
        batch_size: Int, or `None`: it is free.
        reserved: List of strings, the names of inputs and outputs, which no
            other tensor gets.
    """

    def __init__(self, batch_size, reserved):
        self._onnx = load_onnx()
        self._batch = BATCH if batch_size is None else batch_size
        self._names = set(reserved)
        self._nodes = []
        self._constants = []
        self._values = {}  # the name of a tensor: its value_info
        self._kernels = []  # the same of kernels
        self._renamed = {}  # the name of a tensor: that of its output
        self._inputs = []
        self._outputs = []
        self._domains = {"": OPSET}

    def input(self, name, shape, channels_last=False):
        """Adds an input; returns it, channels first."""
        rank = len(shape)
        if not channels_last or rank < 2:
            x = Tensor(name, shape)
            self._inputs.append(self._info(name, x.file_shape, np.float32))
            return x
        self._inputs.append(self._info(name, shape, np.float32))
        given = Tensor(name, shape)
        return self.node(
            "Transpose", [given], f"{name}/nchw", shape, perm=to_first(rank)
        )

    def output(self, name, x, channels_last=False):
        """Makes a tensor an output."""
        x = self.in_keras_order(x)
        is_moved = channels_last and len(x.shape) > 1
        shape = x.shape if is_moved else x.file_shape
        self._outputs.append(self._info(name, shape, np.float32))
        if is_moved:
            perm = to_last(len(x.shape))
            self._append("Transpose", [x], name, "", {"perm": perm})
        elif x.name in self._values and x.name not in self._renamed:
            del self._values[x.name]
            self._renamed[x.name] = name
        else:  # an input, or an output already
            self._append("Identity", [x], name, "", {})

    def node(self, kind, inputs, name, shape, dtype=np.float32, **settings):
        """Adds a node.

        Args:
            kind: String, the operator.
            inputs: List of `Tensor`, and of strings: names of constants.
            name: String, of the tensor; one that is free is made of it.
            shape: Tuple, that of the tensor as Keras has it.
            dtype: NumPy type of the tensor. Defaults to `np.float32`.
            **settings: The attributes; `domain` of the operator, and `order`
                of the tensor.

        Returns:
            `Tensor`.
        """
        domain = settings.pop("domain", "")
        x = Tensor(self._free(name), tuple(shape), settings.pop("order", None))
        self._append(kind, inputs, x.name, domain, settings)
        self._values[x.name] = self._info(x.name, x.file_shape, dtype)
        return x

    def kernel_node(self, kind, inputs, name, shape, domain="", **settings):
        """Adds a node that computes a kernel; returns the tensor's name.

        Args:
            kind: String, the operator.
            inputs: List of strings, names of constants.
            name: String.
            shape: Tuple, that of the kernel.
            domain: String, that of the operator. Defaults to `""`.
            **settings: The attributes.
        """
        name = self._free(name)
        self._append(kind, inputs, name, domain, settings)
        self._kernels.append(
            self._onnx.helper.make_tensor_value_info(
                name, self._onnx.TensorProto.FLOAT, shape
            )
        )
        return name

    def _append(self, kind, inputs, name, domain, settings):
        self._domains.setdefault(domain, 1)
        self._nodes.append(
            self._onnx.helper.make_node(
                kind,
                [getattr(one, "name", one) for one in inputs],
                [name],
                name=name,
                domain=domain,
                **settings,
            )
        )

    def same(self, kind, inputs, name, **settings):
        """A node whose output has shape and order of its first input."""
        x = inputs[0]
        return self.node(kind, inputs, name, x.shape, order=x.order, **settings)

    def constant(self, name, values, dtype=np.float32):
        """Adds a constant; returns its name."""
        name = self._free(name)
        values = np.asarray(values, dtype)
        tensor = self._onnx.numpy_helper.from_array(values, name)
        self._constants.append(tensor)
        return name

    def in_keras_order(self, x):
        """A tensor in the order of Keras, if it was flattened in another."""
        if x.order is None:
            return x
        places = self.constant(f"{x.name}/order", np.argsort(x.order), np.int64)
        return self.node(
            "Gather", [x, places], f"{x.name}/channels_last", x.shape, axis=1
        )

    def contents(self, name, metadata):
        """The bytes of the file.

        Args:
            name: String, that of the graph.
            metadata: Dict of strings.
        """
        self._rename()
        helper = self._onnx.helper
        graph = helper.make_graph(
            self._nodes,
            name,
            self._inputs,
            self._outputs,
            self._constants,
            value_info=[*self._kernels, *self._values.values()],
        )
        model = helper.make_model(
            graph,
            producer_name=PRODUCER,
            ir_version=IR_VERSION,
            opset_imports=[
                helper.make_opsetid(*one) for one in self._domains.items()
            ],
        )
        if metadata:
            helper.set_model_props(model, metadata)
        self._onnx.checker.check_model(model)
        return model.SerializeToString()

    def _rename(self):
        """Gives the tensors that are outputs the names of these."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = self._renamed.get(name, name)

    def _info(self, name, shape, dtype):
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._onnx.helper.make_tensor_value_info(
            name, kind, [self._batch, *shape]
        )

    def _free(self, name):
        """The name, with a number behind it if another has it."""
        free, number = name, 1
        while free in self._names:
            number += 1
            free = f"{name}_{number}"
        self._names.add(free)
        return free

#!/usr/bin/env python3
"""Makes the tiny models of this folder, each with one trait that a reader of foreign graphs stumbles over.

    pip install onnx==1.23.2 numpy==2.4.6 && tests/models/make.py

What must be found in each of them stands in tests/backbone_models.rs. Weights are noise from a fixed seed: another run
makes the same files.
"""
import os

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

HERE = os.path.dirname(os.path.abspath(__file__))


class Net:
    """Builds a graph op by op; every method gives the name of the tensor that it makes."""

    def __init__(self, batch="N", channels=3, side=16, opset=17, kind=T.FLOAT):
        self.rng, self.nodes, self.weights, self.opset, self.kind = np.random.default_rng(0), [], [], opset, kind
        self.inputs = [h.make_tensor_value_info("image", kind, [batch, channels, side, side])]
        self.domains = []

    def op(self, kind, *inputs, outputs=1, **attributes):
        names = [f"t{len(self.nodes)}_{k}" if k else f"t{len(self.nodes)}" for k in range(outputs)]
        self.nodes.append(h.make_node(kind, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, value, dtype=None):
        name = f"w{len(self.weights)}"
        value = np.asarray(value, dtype or (np.float16 if self.kind == T.FLOAT16 else np.float32))
        self.weights.append(nh.from_array(value, name))
        return name

    def ints(self, *values):
        return self.weight(values, np.int64)

    def noise(self, *shape):
        fan = int(np.prod(shape[1:])) or 1
        return self.weight(self.rng.standard_normal(shape) * (2 / fan) ** 0.5)

    def conv(self, x, i, o, k=3, stride=1, group=1):
        p = k // 2
        return self.op("Conv", x, self.noise(o, i // group, k, k), self.noise(o), kernel_shape=[k, k], group=group,
                       pads=[p, p, p, p], strides=[stride, stride])

    def relu(self, x):
        return self.op("Relu", x)

    def norm(self, x, c):
        one = lambda: self.weight(self.rng.uniform(0.5, 1.5, c))
        return self.op("BatchNormalization", x, one(), self.noise(c), self.noise(c), one())

    def dense(self, x, i, o):
        return self.op("Gemm", x, self.noise(o, i), self.noise(o), transB=1)

    def head(self, x, c, classes=5):
        return self.dense(self.op("Flatten", self.op("GlobalAveragePool", x), axis=1), c, classes)

    def save(self, name, *outputs, ir=8, weights_as_inputs=False, external=False):
        shapes = [h.make_empty_tensor_value_info(o) if isinstance(o, str) else o for o in outputs]
        inputs = list(self.inputs)
        if weights_as_inputs:
            inputs += [h.make_tensor_value_info(w.name, w.data_type, w.dims) for w in self.weights]
        graph = h.make_graph(self.nodes, name, inputs, shapes, self.weights)
        opsets = [h.make_opsetid("", self.opset)] + [h.make_opsetid(d, 1) for d in self.domains]
        model = h.make_model(graph, opset_imports=opsets, ir_version=ir, producer_name="make.py")
        path = os.path.join(HERE, name + ".onnx")
        if external:
            onnx.save(model, path, save_as_external_data=True, location=name + ".bin", size_threshold=0)
        else:
            onnx.save(model, path)


def scores(tensor, classes=5, batch="N"):
    return h.make_tensor_value_info(tensor, T.FLOAT, [batch, classes])


def block(n, x, c, norm=False):
    y = n.conv(x, c, c)
    y = n.relu(n.norm(y, c) if norm else y)
    y = n.conv(y, c, c)
    return n.relu(n.op("Add", n.norm(y, c) if norm else y, x))


def residual(n, norm=False, channels=3):
    x = n.relu(n.conv("image", channels, 8))
    x = block(n, x, 8, norm)
    x = n.relu(n.conv(x, 8, 16, stride=2))
    return block(n, x, 16, norm)


def main():
    n = Net(); x = residual(n, norm=True); n.save("residual_bn", scores(n.head(x, 16)))
    # Old exporters: opset 9, IR 3, weights listed among the inputs.
    n = Net(opset=9); x = residual(n); n.save("old_ir", scores(n.head(x, 16)), ir=3, weights_as_inputs=True)
    n = Net(); x = residual(n); n.save("external", scores(n.head(x, 16)), external=True)
    n = Net(kind=T.FLOAT16); x = residual(n); n.save("half", n.head(x, 16))

    n = Net(); x = n.relu(n.conv("image", 3, 8))
    for c in (8, 12, 16):
        x = n.op("Concat", x, n.relu(n.conv(x, c, 4)), axis=1)
    x = n.relu(n.conv(x, 20, 8, k=1))  # the transition: the only cut
    n.save("dense", scores(n.head(n.op("Concat", x, n.relu(n.conv(x, 8, 4)), axis=1), 12)))

    n = Net(); x = n.op("Clip", n.conv("image", 3, 8), n.weight(0.0), n.weight(6.0))
    for stride in (1, 2, 1):
        y = n.op("Clip", n.conv(x, 8, 24, k=1), n.weight(0.0), n.weight(6.0))
        y = n.op("Clip", n.conv(y, 24, 24, stride=stride, group=24), n.weight(0.0), n.weight(6.0))
        y = n.conv(y, 24, 8, k=1)
        x = n.op("Add", x, y) if stride == 1 else y
    n.save("inverted", scores(n.head(x, 8)))

    n = Net(); x = n.relu(n.conv("image", 3, 8))
    for _ in range(2):
        pool = n.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        x = n.op("Concat", n.relu(n.conv(x, 8, 4, k=1)), n.relu(n.conv(pool, 8, 4, k=1)), axis=1)
    n.save("inception", scores(n.head(x, 8)))

    # A transformer whose reshapes ask for the batch, far behind the input, as exporters write them.
    n = Net(); d, t = 16, 17
    x = n.op("Conv", "image", n.noise(d, 3, 4, 4), n.noise(d), kernel_shape=[4, 4], strides=[4, 4])
    batch = n.op("Gather", n.op("Shape", "image"), n.weight(0, np.int64), axis=0)
    batch = n.op("Unsqueeze", batch, n.ints(0))
    x = n.op("Reshape", x, n.op("Concat", batch, n.ints(d, 16), axis=0))
    x = n.op("Transpose", x, perm=[0, 2, 1])
    token = n.op("Expand", n.noise(1, 1, d), n.op("Concat", batch, n.ints(1, d), axis=0))
    x = n.op("Add", n.op("Concat", token, x, axis=1), n.noise(1, t, d))
    for _ in range(2):
        y = n.op("LayerNormalization", x, n.weight(np.ones(d)), n.weight(np.zeros(d)), axis=-1)
        heads = []
        for _ in range(3):
            z = n.op("MatMul", y, n.noise(d, d))
            z = n.op("Reshape", z, n.op("Concat", batch, n.ints(t, 2, d // 2), axis=0))
            heads.append(n.op("Transpose", z, perm=[0, 2, 1, 3]))
        score = n.op("MatMul", heads[0], n.op("Transpose", heads[1], perm=[0, 1, 3, 2]))
        z = n.op("MatMul", n.op("Softmax", n.op("Mul", score, n.weight(0.35)), axis=-1), heads[2])
        z = n.op("Reshape", n.op("Transpose", z, perm=[0, 2, 1, 3]), n.op("Concat", batch, n.ints(t, d), axis=0))
        x = n.op("Add", x, n.op("MatMul", z, n.noise(d, d)))
        y = n.op("LayerNormalization", x, n.weight(np.ones(d)), n.weight(np.zeros(d)), axis=-1)
        y = n.op("MatMul", y, n.noise(d, 2 * d))
        y = n.op("Mul", n.op("Mul", y, n.weight(0.5)), n.op("Add", n.op("Erf", n.op("Div", y, n.weight(1.41421))), n.weight(1.0)))
        x = n.op("Add", x, n.op("MatMul", y, n.noise(2 * d, d)))
    first = n.op("Gather", x, n.weight(0, np.int64), axis=1)
    n.save("transformer", scores(n.dense(first, d, 5)))

    # Pads computed from the input's shape, and a stray Identity chain and Constant nodes.
    n = Net(); x = n.relu(n.conv("image", 3, 8))
    shape = n.op("Shape", x)
    side = n.op("Slice", shape, n.ints(2), n.ints(3))
    extra = n.op("Mod", side, n.op("Constant", value=nh.from_array(np.array([3], np.int64))))
    pads = n.op("Concat", n.ints(0, 0, 0, 0, 0, 0), extra, extra, axis=0)
    x = n.op("Identity", n.op("Identity", n.op("Pad", x, pads)))
    x = block(n, n.relu(n.conv(x, 8, 8)), 8)
    n.save("computed_pads", scores(n.head(x, 8)))

    # A batch of one written into a reshape: it can be freed. And one that cannot: a row of weights concatenated.
    n = Net(batch=1); x = n.op("GlobalAveragePool", residual(n))
    n.save("fixed_reshape", scores(n.dense(n.op("Reshape", x, n.ints(1, 16)), 16, 5), batch=1))
    n = Net(batch=1); x = residual(n)
    x = n.op("Concat", x, n.noise(1, 2, 8, 8), axis=1)
    n.save("fixed_batch", scores(n.head(x, 18), batch=1))

    # TensorFlow's way: pixels last at the border, planes inside.
    n = Net(); n.inputs = [h.make_tensor_value_info("image", T.FLOAT, ["N", 16, 16, 3])]
    n.op("Transpose", "image", perm=[0, 3, 1, 2])
    x = n.relu(n.conv("t0", 3, 8)); x = block(n, x, 8)
    n.save("nhwc", scores(n.op("Softmax", n.head(x, 8), axis=-1)))

    # Three outputs: a map, an embedding of the wrong rank, and the scores, not first.
    n = Net(); x = residual(n); y = n.head(x, 16)
    n.save("outputs", x, n.op("Unsqueeze", y, n.ints(1)), h.make_tensor_value_info(y, T.FLOAT, ["N", 5]))

    # An If whose branches reach outside: nothing may be cut inside of it.
    n = Net(); x = n.relu(n.conv("image", 3, 8)); y = block(n, x, 8)
    big = n.op("Greater", n.op("ReduceMax", y, keepdims=0), n.weight(1e9))
    branch = lambda op, name: h.make_graph([h.make_node(op, [y], [name])], name, [], [h.make_empty_tensor_value_info(name)])
    z = n.op("If", big, then_branch=branch("Neg", "yes"), else_branch=branch("Abs", "no"))
    n.save("branch", scores(n.head(block(n, z, 8), 8)))

    # Weights and activations in int8, quantise/dequantise pairs around every convolution.
    n = Net()
    def quant(x, scale, zero=128):
        s, z = n.weight(scale), n.weight(zero, np.uint8)
        return n.op("DequantizeLinear", n.op("QuantizeLinear", x, s, z), s, z)
    def qconv(x, i, o, stride=1):
        w = n.weight(n.rng.integers(-100, 100, (o, i, 3, 3)), np.int8)
        w = n.op("DequantizeLinear", w, n.weight(0.003), n.weight(0, np.int8))
        return n.op("Conv", x, w, n.noise(o), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride])
    x = quant(n.relu(qconv(quant("image", 1 / 255, 0), 3, 8)), 0.05, 0)
    for _ in range(2):
        x = quant(n.relu(qconv(x, 8, 8)), 0.05, 0)
    n.save("int8", scores(n.head(x, 8)))

    # What cannot be used, each with its own reason.
    for name, kind in ("nan", T.FLOAT), ("nan_half", T.FLOAT16):
        n = Net(kind=kind); x = n.op("Div", n.relu(n.conv("image", 3, 8)), n.weight(0.0))
        x = n.head(n.op("Sub", x, x), 8)
        n.save(name, scores(x) if kind == T.FLOAT else x)
    n = Net(); n.inputs.append(h.make_tensor_value_info("mask", T.FLOAT, ["N", 16, 16, 3]))
    n.save("two_inputs", scores(n.head(n.relu(n.conv("image", 3, 8)), 8)))
    n = Net(); n.inputs = [h.make_tensor_value_info("image", T.FLOAT, ["N", 40])]
    n.save("vector", scores(n.dense("image", 40, 5)))
    n = Net(); n.save("no_scores", n.relu(n.conv("image", 3, 8)))
    n = Net(); n.domains = ["strange"]
    n.nodes.append(h.make_node("Wonder", ["image"], ["w"], name="the_wonder", domain="strange"))
    n.save("unknown_op", scores(n.head("w", 3)))
    # Noise of its own: no two runs answer alike, so no cut can be shown to be right.
    n = Net(); x = block(n, n.relu(n.conv("image", 3, 8)), 8)
    x = n.op("Mul", x, n.op("RandomNormalLike", n.op("GlobalAveragePool", x)))
    n.save("random", scores(n.head(block(n, x, 8), 8)))
    # AlexNet in small: nearly all work in the first, large convolution, hundreds of classes. An exit behind it saves a tenth at
    # most, and its head costs half of that.
    n = Net(side=32)
    # Around zero and without biases, or one class would win everywhere.
    conv = lambda x, i, o, k: n.op("Conv", x, n.noise(o, i, k, k), kernel_shape=[k, k], pads=[k // 2] * 4)
    pool = lambda x, k: n.op("MaxPool", x, kernel_shape=[k, k], strides=[k, k])
    x = pool(n.relu(conv(n.op("Sub", "image", n.weight(0.5)), 3, 4, 11)), 2)
    x = pool(n.relu(conv(x, 4, 12, 3)), 2)
    x = n.op("Flatten", n.op("AveragePool", conv(x, 12, 8, 3), kernel_shape=[4, 4], strides=[4, 4]), axis=1)
    n.save("alexnet", scores(n.op("MatMul", x, n.noise(32, 365)), classes=365))
    # One convolution, then scores: nothing lies between.
    n = Net(); n.save("shallow", scores(n.op("Flatten", n.op("Conv", "image", n.noise(5, 3, 16, 16)), axis=1)))


if __name__ == "__main__":
    main()

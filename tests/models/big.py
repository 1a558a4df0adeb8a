#!/usr/bin/env python3
"""Makes well-known networks at full size, with noise for weights: to check FLOPs and to time cuts. Not checked in.

    pip install onnx==1.23.2 numpy==2.4.6 && tests/models/big.py DIR

Multiply-accumulates by hand (torchvision's own figures): ResNet-50 4.09 G, MobileNetV2 0.30 G, ViT-B/16 17.56 G with
attention. Layer for layer as in torchvision, BatchNorm folded, 224 x 224, 1,000 classes.
"""
import os
import sys

import numpy as np

import make
from make import Net, scores


def bottleneck(n, x, i, mid, stride):
    y = n.relu(n.conv(x, i, mid, k=1))
    y = n.relu(n.conv(y, mid, mid, stride=stride))
    y = n.conv(y, mid, 4 * mid, k=1)
    if stride != 1 or i != 4 * mid:
        x = n.conv(x, i, 4 * mid, k=1, stride=stride)
    return n.relu(n.op("Add", y, x))


def resnet50():
    n = Net(side=224)
    x = n.relu(n.conv("image", 3, 64, k=7, stride=2))
    x = n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    i = 64
    for mid, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for k in range(blocks):
            x = bottleneck(n, x, i, mid, stride if k == 0 else 1)
            i = 4 * mid
    n.save("resnet50", scores(n.head(x, 2048, 1000), 1000))


def mobilenetv2():
    n = Net(side=224)
    clip = lambda x: n.op("Clip", x, n.weight(0.0), n.weight(6.0))
    x, i = clip(n.conv("image", 3, 32, stride=2)), 32
    for t, c, blocks, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                                 (6, 320, 1, 1)):
        for k in range(blocks):
            s = stride if k == 0 else 1
            y = clip(n.conv(x, i, i * t, k=1)) if t > 1 else x
            y = n.conv(clip(n.conv(y, i * t, i * t, stride=s, group=i * t)), i * t, c, k=1)
            x = n.op("Add", x, y) if s == 1 and i == c else y
            i = c
    n.save("mobilenetv2", scores(n.head(clip(n.conv(x, 320, 1280, k=1)), 1280, 1000), 1000))


def vit(name, d, layers, heads):
    n, t = Net(side=224), 197
    x = n.op("Conv", "image", n.noise(d, 3, 16, 16), n.noise(d), kernel_shape=[16, 16], strides=[16, 16])
    batch = n.op("Unsqueeze", n.op("Gather", n.op("Shape", "image"), n.weight(0, np.int64), axis=0), n.ints(0))
    shape = lambda *rest: n.op("Concat", batch, n.ints(*rest), axis=0)
    x = n.op("Transpose", n.op("Reshape", x, shape(d, t - 1)), perm=[0, 2, 1])
    token = n.op("Expand", n.noise(1, 1, d), shape(1, d))
    x = n.op("Add", n.op("Concat", token, x, axis=1), n.noise(1, t, d))
    norm = lambda x: n.op("LayerNormalization", x, n.weight(np.ones(d)), n.weight(np.zeros(d)), axis=-1)
    def linear(x, i, o):
        return n.op("Add", n.op("MatMul", x, n.weight(n.rng.standard_normal((i, o)) / i ** 0.5)), n.noise(o))
    for _ in range(layers):
        y = norm(x)
        split = lambda z: n.op("Transpose", n.op("Reshape", z, shape(t, heads, d // heads)), perm=[0, 2, 1, 3])
        q, k, v = (split(linear(y, d, d)) for _ in range(3))
        a = n.op("Mul", n.op("MatMul", q, n.op("Transpose", k, perm=[0, 1, 3, 2])), n.weight((d // heads) ** -0.5))
        y = n.op("Transpose", n.op("MatMul", n.op("Softmax", a, axis=-1), v), perm=[0, 2, 1, 3])
        x = n.op("Add", x, linear(n.op("Reshape", y, shape(t, d)), d, d))
        y = linear(norm(x), d, 4 * d)
        gelu = n.op("Mul", n.op("Mul", y, n.op("Add", n.op("Erf", n.op("Div", y, n.weight(2 ** 0.5))), n.weight(1.0))), n.weight(0.5))
        x = n.op("Add", x, linear(gelu, 4 * d, d))
    x = n.op("Gather", norm(x), n.weight(0, np.int64), axis=1)
    n.save(name, scores(n.dense(x, d, 1000), 1000))


if __name__ == "__main__":
    make.HERE = sys.argv[1]
    os.makedirs(make.HERE, exist_ok=True)
    resnet50(), mobilenetv2(), vit("vit_b16", 768, 12, 12), vit("vit_tiny", 192, 12, 3)

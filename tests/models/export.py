#!/usr/bin/env python3
"""Makes tiny models with real exporters, as users bring them: PyTorch's old one (TorchScript) and its new one (dynamo),
tf2onnx for Keras, and Paddle2ONNX.

    python3 tests/models/export.py torch    # PyTorch 1.13 (Debian: apt-get install python3-torch; pip install onnx)
    python3 tests/models/export.py dynamo   # pip install torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2
    python3 tests/models/export.py keras    # pip install tensorflow-cpu==2.21.0 tf2onnx==1.17.0
    python3 tests/models/export.py paddle   # pip install paddlepaddle==3.3.1 paddle2onnx==2.1.0 packaging==26.3 setuptools

What must be found in each of them stands in tests/backbone_models.rs. Weights are noise from a fixed seed.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def torch_networks():
    """Makers of three networks, in the order in which the seed's numbers are used up."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True),
                                      nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
            same = stride == 1 and i == o
            self.skip = nn.Identity() if same else nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x):
            return torch.relu(self.body(x) + self.skip(x))

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1))
            self.head = nn.Linear(16, 5)

        def forward(self, x):
            x = self.blocks(self.stem(x))
            # As people write it: the batch asked of the tensor, in the middle of the graph.
            return self.head(nn.functional.adaptive_avg_pool2d(x, 1).view(x.size(0), -1))

    class Squeeze(nn.Module):
        """An EfficientNet's block: depthwise convolution, squeeze-and-excitation, SiLU."""

        def __init__(self, c):
            super().__init__()
            self.expand = nn.Sequential(nn.Conv2d(c, 3 * c, 1), nn.BatchNorm2d(3 * c), nn.SiLU())
            self.depth = nn.Sequential(nn.Conv2d(3 * c, 3 * c, 3, 1, 1, groups=3 * c), nn.BatchNorm2d(3 * c), nn.SiLU())
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3 * c, c, 1), nn.SiLU(), nn.Conv2d(c, 3 * c, 1),
                                      nn.Sigmoid())
            self.project = nn.Sequential(nn.Conv2d(3 * c, c, 1), nn.BatchNorm2d(c))

        def forward(self, x):
            y = self.depth(self.expand(x))
            return x + self.project(y * self.gate(y))

    class Vision(nn.Module):
        """A small ViT: PyTorch's own attention, a class token that is expanded to the batch."""

        def __init__(self, d=16):
            super().__init__()
            self.patch = nn.Conv2d(3, d, 4, 4)
            self.token = nn.Parameter(torch.randn(1, 1, d))
            self.place = nn.Parameter(torch.randn(1, 17, d))
            layer = lambda: nn.TransformerEncoderLayer(d, 2, 2 * d, 0.0, "gelu", batch_first=True, norm_first=True)
            self.layers = nn.ModuleList([layer() for _ in range(3)])
            self.head = nn.Linear(d, 5)

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
            for layer in self.layers:
                x = layer(x)
            return self.head(x[:, 0])

    def squeeze():
        return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.SiLU(), Squeeze(8), Squeeze(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(8, 5))

    return squeeze, Residual, Vision


def as_after_training(model):
    """Batch norms that are no identity, which a fold would hide."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2), nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def torch_models():
    import torch

    torch.manual_seed(0)
    squeeze, residual, vision = torch_networks()
    squeeze = squeeze()
    for name, model, kind in (("torch_residual", residual(), "eval"), ("torch_unfolded", residual(), "unfolded"),
                              ("torch_squeeze", squeeze, "eval"), ("torch_vision", vision(), "eval")):
        mode = {"eval": torch.onnx.TrainingMode.EVAL, "unfolded": torch.onnx.TrainingMode.PRESERVE}[kind]
        torch.onnx.export(as_after_training(model), torch.zeros(1, 3, 16, 16), os.path.join(HERE, name + ".onnx"),
                          opset_version=14, training=mode, do_constant_folding=kind == "eval", input_names=["input"],
                          output_names=["output"], dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})


def dynamo_models():
    import torch

    torch.manual_seed(0)
    _, residual, vision = torch_networks()
    # The operator set that the exporter chooses by itself, and the newest that it knows. (An example of one row would make it
    # take the batch of some models for fixed, whatever it is told.)
    free = ({0: torch.export.Dim("batch")},)
    for name, model, rows, opset, shapes in (("residual", residual(), 2, None, free), ("vision", vision(), 2, 23, free),
                                             ("fixed", residual(), 1, None, None)):
        program = torch.onnx.export(as_after_training(model), (torch.zeros(rows, 3, 16, 16),), dynamo=True, opset_version=opset,
                                    dynamic_shapes=shapes, verbose=False)
        forget_machine(program.model)
        program.save(os.path.join(HERE, f"dynamo_{name}.onnx"))


def forget_machine(model):
    """Drops what the exporter notes for debugging: stack traces, with the paths of the machine that ran it."""
    for node in model.graph:
        node.metadata_props.clear()


def keras_models():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf
    import tf2onnx
    from tensorflow.keras import layers as l

    tf.keras.utils.set_random_seed(0)
    x = image = l.Input((16, 16, 3), name="image")
    x = l.ReLU(6.0)(l.BatchNormalization()(l.Conv2D(8, 3, padding="same", use_bias=False)(x)))
    for stride in (1, 2, 1):
        y = l.ReLU(6.0)(l.BatchNormalization()(l.Conv2D(24, 1, use_bias=False)(x)))
        # TensorFlow pads one side only where it strides.
        y = l.ReLU(6.0)(l.BatchNormalization()(l.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(y)))
        y = l.BatchNormalization()(l.Conv2D(8, 1, use_bias=False)(y))
        x = l.Add()([x, y]) if stride == 1 else y
    x = l.Dense(5, activation="softmax", name="probabilities")(l.Dropout(0.2)(l.GlobalAveragePooling2D()(x)))
    model = tf.keras.Model(image, x)
    call = tf.function(lambda image: model(image, training=False))
    spec = [tf.TensorSpec((None, 16, 16, 3), tf.float32, name="image")]
    tf2onnx.convert.from_function(call, input_signature=spec, opset=15, output_path=os.path.join(HERE, "keras_inverted.onnx"))


def paddle_models():
    import tempfile

    import paddle
    import paddle2onnx
    from paddle import nn
    from paddle.nn import functional as f

    paddle.seed(0)

    class Norm(nn.Layer):
        def __init__(self, i, o, k=1, stride=1, groups=1, act=None):
            super().__init__()
            self.conv = nn.Conv2D(i, o, k, stride, k // 2, groups=groups, bias_attr=False)
            self.norm, self.act = nn.BatchNorm(o), act
            # As after a training: no identity.
            self.norm._mean.set_value(paddle.uniform([o], min=-0.2, max=0.2))
            self.norm._variance.set_value(paddle.uniform([o], min=0.5, max=1.5))

        def forward(self, x):
            x = self.norm(self.conv(x))
            return x if self.act is None else self.act(x)

    class Squeeze(nn.Layer):
        def __init__(self, c):
            super().__init__()
            self.pool, self.down, self.up = nn.AdaptiveAvgPool2D(1), nn.Conv2D(c, c // 4, 1), nn.Conv2D(c // 4, c, 1)

        def forward(self, x):
            return x * f.hardsigmoid(self.up(f.relu(self.down(self.pool(x)))), slope=0.2, offset=0.5)

    class Block(nn.Layer):
        """A MobileNetV3's block."""

        def __init__(self, i, middle, o, k, stride, squeeze, act):
            super().__init__()
            self.expand, self.depth = Norm(i, middle, act=act), Norm(middle, middle, k, stride, middle, act)
            self.squeeze = Squeeze(middle) if squeeze else nn.Identity()
            self.project, self.same = Norm(middle, o), stride == 1 and i == o

        def forward(self, x):
            y = self.project(self.squeeze(self.depth(self.expand(x))))
            return x + y if self.same else y

    class Mobile(nn.Layer):
        def __init__(self):
            super().__init__()
            self.stem = Norm(3, 8, 3, act=f.hardswish)
            self.blocks = nn.Sequential(Block(8, 16, 8, 3, 1, True, f.relu), Block(8, 24, 16, 3, 2, False, f.relu),
                                        Block(16, 32, 16, 5, 1, True, f.hardswish))
            self.last, self.pool, self.mean = nn.Conv2D(16, 32, 1), nn.MaxPool2D(3, 2, ceil_mode=True), nn.AdaptiveAvgPool2D(1)
            self.drop, self.head = nn.Dropout(0.2, mode="downscale_in_infer"), nn.Linear(32, 5)

        def forward(self, x):
            x = self.mean(self.pool(f.hardswish(self.last(self.blocks(self.stem(x))))))
            return f.softmax(self.head(self.drop(paddle.flatten(x, 1))))

    model = Mobile()
    model.eval()
    spec = [paddle.static.InputSpec([None, 3, 16, 16], "float32", "x")]
    with tempfile.TemporaryDirectory() as folder:
        paddle.jit.save(model, os.path.join(folder, "mobile"), input_spec=spec)
        files = [os.path.join(folder, "mobile" + end) for end in (".json", ".pdiparams")]
        # As the converter writes it, a Constant for each weight and each shape: folding is an option of newer versions.
        paddle2onnx.export(*files, os.path.join(HERE, "paddle_mobile.onnx"), opset_version=11, optimize_tool="None")


if __name__ == "__main__":
    {"torch": torch_models, "dynamo": dynamo_models, "keras": keras_models, "paddle": paddle_models}[sys.argv[1]]()

#!/usr/bin/env python3
"""Makes tiny models with real exporters, as users bring them: PyTorch's (TorchScript) and tf2onnx for Keras.

    python3 tests/models/export.py torch    # PyTorch 1.13 (Debian: apt-get install python3-torch; pip install onnx)
    python3 tests/models/export.py keras    # pip install tensorflow-cpu==2.21.0 tf2onnx==1.17.0

What must be found in each of them stands in tests/backbone_models.rs. Weights are noise from a fixed seed.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def torch_models():
    import torch
    from torch import nn

    torch.manual_seed(0)

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

    squeeze = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.SiLU(), Squeeze(8), Squeeze(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                            nn.Linear(8, 5))
    for name, model, kind in (("torch_residual", Residual(), "eval"), ("torch_unfolded", Residual(), "unfolded"),
                              ("torch_squeeze", squeeze, "eval"), ("torch_vision", Vision(), "eval")):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after a training: no identity that a fold would hide
                nn.init.uniform_(module.running_mean, -0.2, 0.2), nn.init.uniform_(module.running_var, 0.5, 1.5)
        mode = {"eval": torch.onnx.TrainingMode.EVAL, "unfolded": torch.onnx.TrainingMode.PRESERVE}[kind]
        model.eval()
        torch.onnx.export(model, torch.zeros(1, 3, 16, 16), os.path.join(HERE, name + ".onnx"), opset_version=14, training=mode,
                          do_constant_folding=kind == "eval", input_names=["input"], output_names=["output"],
                          dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})


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


if __name__ == "__main__":
    {"torch": torch_models, "keras": keras_models}[sys.argv[1]]()

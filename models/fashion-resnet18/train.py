#!/usr/bin/env python3
"""Train a CIFAR-style ResNet-18 and export it to ONNX (dynamic batch, input = pixels / 255, normalisation inside).

    train.py --idx /usr/share/datasets/fashion-mnist --width 16 --epochs 8 --out DIR
    train.py --images train_images.npy --labels train_labels.npy \
             --test-images test_images.npy --test-labels test_labels.npy --width 32 --epochs 12 --out DIR

One sixth of the training pictures (stratified, seed 0) is never shown to the network: its indices go to
DIR/stream_idx.npy, so that the stream on which offramp learns is new to the backbone.
Needs PyTorch >= 1.13 with torch.onnx (Debian: python3-torch) and numpy. A tool for the project's developers: nothing
that builds, tests or runs offramp needs it.
Architecture: 3x3 stem, four stages of two basic blocks at w, 2w, 4w, 8w (He et al. 2016, the variant used for CIFAR).
"""
import argparse
import gzip
import json
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        same = stride == 1 and i == o
        self.sc = nn.Sequential() if same else nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        y = F.relu(self.b1(self.c1(x)))
        return F.relu(self.b2(self.c2(y)) + self.sc(x))


class ResNet18(nn.Module):
    def __init__(self, channels, width, classes):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        stages, i = [], width
        for k, stride in enumerate((1, 2, 2, 2)):
            o = width * 2 ** k
            stages.append(nn.Sequential(Block(i, o, stride), Block(o, o, 1)))
            i = o
        self.layers, self.fc = nn.ModuleList(stages), nn.Linear(i, classes)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        for stage in self.layers:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


class Normalised(nn.Module):
    def __init__(self, net, mean, std):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("istd", 1 / torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x):
        return self.net((x - self.mean) * self.istd)


def idx(path):
    """The array in a gzipped IDX file of unsigned bytes."""
    raw = gzip.open(path).read()
    dims = [int.from_bytes(raw[4 + 4 * k:8 + 4 * k], "big") for k in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(dims)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--idx", metavar="DIR", help="folder with the four IDX files, in place of the .npy options")
    for name in ("--images", "--labels", "--test-images", "--test-labels"):
        p.add_argument(name, metavar="NPY")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--width", type=int, default=16)
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    if not a.idx and not (a.images and a.labels and a.test_images and a.test_labels):
        p.error("give --idx, or all of --images, --labels, --test-images and --test-labels")
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    if a.idx:
        x, y = idx(f"{a.idx}/train-images-idx3-ubyte.gz"), idx(f"{a.idx}/train-labels-idx1-ubyte.gz")
        xt, yt = idx(f"{a.idx}/t10k-images-idx3-ubyte.gz"), idx(f"{a.idx}/t10k-labels-idx1-ubyte.gz")
    else:
        x, y, xt, yt = (np.load(f) for f in (a.images, a.labels, a.test_images, a.test_labels))
    x, xt = (v[..., None] if v.ndim == 3 else v for v in (x, xt))
    y, yt = y.astype(np.int64), yt.astype(np.int64)
    classes, side, pad = int(y.max()) + 1, x.shape[1], 2 if x.shape[1] == 28 else 4
    os.makedirs(a.out, exist_ok=True)
    stream = np.sort(np.concatenate([rng.permutation(np.where(y == c)[0])[:(y == c).sum() // 6] for c in range(classes)]))
    train = np.setdiff1d(np.arange(len(y)), stream)
    np.save(f"{a.out}/stream_idx.npy", stream)
    flat = x[train].reshape(-1, x.shape[-1]) / 255.0
    mean, std = flat.mean(0), flat.std(0)
    prep = lambda b: torch.from_numpy(np.ascontiguousarray(b.transpose(0, 3, 1, 2))).float() / 255

    def augment(b):
        n = len(b)
        wide = np.pad(b, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        rows = rng.integers(0, 2 * pad + 1, n)[:, None] + np.arange(side)
        cols = rng.integers(0, 2 * pad + 1, n)[:, None] + np.arange(side)
        flip = rng.random(n) < 0.5
        cols[flip] = cols[flip][:, ::-1]
        return wide[np.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]]

    net = Normalised(ResNet18(x.shape[-1], a.width, classes), mean, std).to(memory_format=torch.channels_last)
    decay = [q for q in net.parameters() if q.ndim > 1]
    plain = [q for q in net.parameters() if q.ndim <= 1]
    opt = torch.optim.SGD([{"params": decay, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0}],
                          lr=0.1, momentum=0.9, nesterov=True)
    steps = len(train) // 128
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 0.15, total_steps=a.epochs * steps, pct_start=0.25,
                                                div_factor=10, final_div_factor=200)

    def accuracy(images, labels):
        net.eval()
        with torch.no_grad():
            hit = sum((net(prep(images[i:i + 500])).argmax(1).numpy() == labels[i:i + 500]).sum()
                      for i in range(0, len(labels), 500))
        net.train()
        return float(hit) / len(labels)

    start = time.time()
    for epoch in range(a.epochs):
        order = rng.permutation(train)
        for k in range(steps):
            take = order[k * 128:(k + 1) * 128]
            loss = F.cross_entropy(net(prep(augment(x[take]))), torch.from_numpy(y[take]))
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            sched.step()
        print(f"epoch {epoch} loss {loss.item():.3f} test(2000) {accuracy(xt[:2000], yt[:2000]):.4f} "
              f"{time.time() - start:.0f} s", flush=True)
    net.eval()
    torch.onnx.export(net, torch.rand(2, x.shape[-1], side, side), f"{a.out}/backbone.onnx", opset_version=17,
                      input_names=["input"], output_names=["logits"],
                      dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}})
    result = {"test_accuracy": accuracy(xt, yt), "stream_accuracy": accuracy(x[stream], y[stream]), "epochs": a.epochs,
              "width": a.width, "seconds": round(time.time() - start)}
    with open(f"{a.out}/result.json", "w", encoding="utf-8") as file:
        json.dump(result, file)
    print(result)


if __name__ == "__main__":
    main()

"""Frames for the large model: 640 x 480 JPEGs from a video, a folder, or the committed pictures."""
import gzip
from pathlib import Path

import cv2
import numpy as np

from cluster import ROOT, Failed

SIZE = (640, 480)
QUALITY = 90
SEED = 1


def jpegs(source, folder, count):
    """A folder of JPEGs for `offramp feed`, and in words what they are."""
    if source is not None and source.is_dir():
        return source, f"the pictures of {source.name}/ as they are"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()
    pictures, words = textured(count), "synthetic: Fashion-MNIST pictures scaled up, tinted, with noise at three scales"
    if source is not None:
        pictures, words = video(source, count), f"frames of {source.name}, scaled"
    sizes = []
    for number, picture in enumerate(pictures):
        fine, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if not fine:
            raise Failed(f"OpenCV cannot encode picture {number} of {source}")
        (folder / f"{number:05}.jpg").write_bytes(encoded.tobytes())
        sizes.append(len(encoded))
    if not sizes:
        raise Failed(f"OpenCV reads no frame from {source}")
    return folder, f"{words}, {SIZE[0]} x {SIZE[1]}, quality {QUALITY}, {np.mean(sizes) / 1000:.0f} kB in the mean"


def video(path, count):
    """The first frames of a video, scaled."""
    opened = cv2.VideoCapture(str(path))
    for _ in range(count):
        fine, picture = opened.read()
        if not fine:
            return
        yield cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)


def textured(count):
    """Pictures with as much in them for a decoder as a camera's have."""
    packed = ROOT / "models/fashion-resnet18/data/t10k-images-idx3-ubyte.gz"
    pictures = np.frombuffer(gzip.decompress(packed.read_bytes())[16:], np.uint8).reshape(-1, 28, 28)
    random = np.random.default_rng(SEED)
    for picture in pictures[:count]:
        large = cv2.resize(picture, SIZE, interpolation=cv2.INTER_CUBIC).astype(np.float32)
        tinted = large[:, :, None] * random.uniform(0.5, 1.0, 3) + random.uniform(0, 60, 3)
        for cell, strength in ((1, 6), (4, 12), (32, 25)):
            noise = random.normal(0, strength, (SIZE[1] // cell, SIZE[0] // cell, 3)).astype(np.float32)
            tinted += cv2.resize(noise, SIZE, interpolation=cv2.INTER_LINEAR)
        yield np.clip(tinted, 0, 255).astype(np.uint8)


def large_model(onnx, folder):
    """A model folder around EfficientNet-Lite0's file, as its input wants it."""
    if not onnx.exists():
        raise Failed(f"{onnx} does not exist; give the large model's .onnx with --large")
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "backbone.onnx"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(onnx).resolve())
    text = 'output = "logits"\n[input]\nchannels = "rgb"\nscale = 0.0078125\n'
    (folder / "model.toml").write_text(f"[model]\n{text}mean = [0.9921875, 0.9921875, 0.9921875]\nstd = [1.0, 1.0, 1.0]\n"
                                       'resize = "crop"\n')
    return folder

#!/usr/bin/env python3
"""Writes the 20,000 Fashion-MNIST pictures that the demo model never saw: fetch.py DIR [--idx FOLDER]

    DIR/frames.npy   uint8 (20000, 28, 28): the 10,000 held-back training pictures (stream_idx.npy), then the test set
    DIR/labels.npy   uint8 (20000,)

The test set stands beside this file. The training set comes out of Debian's package dataset-fashion-mnist (31 MB, fetched
with apt-get and unpacked, not installed), from the place where that package puts it, or from FOLDER; its hash is checked
wherever it comes from. Needs Python 3 alone, and Debian's or Ubuntu's apt-get to fetch.
"""
import argparse
import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = "dataset-fashion-mnist=0.0~git20200523.55506a9-1"
FOLDER = Path("usr/share/datasets/fashion-mnist")
TRAIN = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
}


def fail(message):
    sys.exit(f"offramp: {message}")


def fetch(tmp):
    """Fetches and unpacks the package; gives the folder with the files."""
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            names = " and ".join(TRAIN)
            fail(f"{tool} is missing, which fetches Fashion-MNIST; put {names} into a folder and give it with --idx")
    print(f"offramp: fetching Fashion-MNIST (Debian's {PACKAGE}, 31 MB)", file=sys.stderr)
    # The download has no need of the sandbox's user, who may not write here.
    command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", PACKAGE]
    if subprocess.run(command, cwd=tmp, stdout=subprocess.DEVNULL, check=False).returncode:
        fail(f"apt-get could not fetch {PACKAGE}; the reason is above (run 'apt-get update' first)")
    for deb in Path(tmp).glob("*.deb"):
        subprocess.run(["dpkg", "-x", deb, tmp], check=True)
    return Path(tmp) / FOLDER


def train_file(folder, name):
    packed = (folder / name).read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != TRAIN[name]:
        fail(f"{folder / name} has the hash {found}, expected {TRAIN[name]}")
    return idx(packed)


def idx(packed):
    """The bytes of one picture or label each."""
    data = gzip.decompress(packed)
    rank = data[3]
    dims = struct.unpack(f">{rank}I", data[4:4 + 4 * rank])
    values, size = memoryview(data)[4 + 4 * rank:], 1
    for dim in dims[1:]:
        size *= dim
    return [values[at * size:(at + 1) * size] for at in range(dims[0])]


def indices(path):
    """A one-dimensional int64 .npy."""
    data = path.read_bytes()
    start = 10 + int.from_bytes(data[8:10], "little")
    return struct.unpack(f"<{(len(data) - start) // 8}q", data[start:])


def write_npy(path, shape, rows):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        file.writelines(rows)
    os.replace(new, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--idx", type=Path, help="a folder with the training set's two IDX files")
    args = parser.parse_args()
    frames_file, labels_file = args.dir / "frames.npy", args.dir / "labels.npy"
    if frames_file.exists() and labels_file.exists():
        return
    args.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        folder = args.idx or Path("/") / FOLDER
        if args.idx is None and not all((folder / name).exists() for name in TRAIN):
            folder = fetch(tmp)
        images, labels = (train_file(folder, name) for name in TRAIN)
    held = indices(HERE / "stream_idx.npy")
    test = [idx((HERE / "data" / name).read_bytes()) for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")]
    frames = [images[at] for at in held] + test[0]
    write_npy(frames_file, (len(frames), 28, 28), frames)
    write_npy(labels_file, (len(frames),), [labels[at] for at in held] + test[1])
    print(f"offramp: {len(frames)} pictures are in {frames_file}", file=sys.stderr)


main()

#!/usr/bin/env python3
"""Trains the head 0 that comes with offramp on rendered cameras and writes weights.json. Needs numpy alone; some five minutes.

    python3 train.py [--cameras 600] [--frames 600] [--seed 1]

Pairs: each frame with its predecessor, and with one at a log-uniform distance of up to 24 frames. Target: whether the made-up
classifier gives both the same answer. One pair in twenty is of two cameras: a view that was cut to another, whose answer is the
same by chance alone. The comparison's ten numbers are those of sameness.rs.
"""
import argparse
import json
import pathlib

import numpy as np

import scenes

FAR, HIDDEN, PASSES, BATCH, RATE, DECAY = 24, 32, 8, 256, 3e-3, 1e-4


def comparisons(keyframe, frame, confidence, margin, age):
    """Rows of ten numbers, as `Comparison::new` makes them."""
    raw = np.abs(frame - keyframe)
    gain = ((keyframe * frame).sum(1) + 1) / ((keyframe * keyframe).sum(1) + 1)
    lit = np.abs(frame - np.clip(gain, 0.5, 2)[:, None] * keyframe)
    ranked, raw_ranked = -np.sort(-lit, 1), -np.sort(-raw, 1)
    columns = [ranked[:, rank] for rank in (0, 3, 10, 40)] + [lit.mean(1), raw.mean(1), raw_ranked[:, 3]]
    return np.stack([np.log1p(c) for c in columns] + [confidence, margin, np.log1p(age)], 1).astype(np.float32)


def pairs(thumbnails, probabilities, rng):
    count = len(thumbnails)
    flat, answers = thumbnails.reshape(count, -1), probabilities.argmax(1)
    ranked = np.sort(probabilities, 1)
    confidence, margin = ranked[:, -1], ranked[:, -1] - ranked[:, -2]
    later = np.arange(1, count)
    distance = np.exp(rng.uniform(0, np.log(FAR), count - 1)).astype(int)
    frame, key = np.concatenate([later, later]), np.concatenate([later - 1, np.maximum(later - distance, 0)])
    rows = comparisons(flat[key], flat[frame], confidence[key], margin[key], (frame - key).astype(np.float32))
    return rows, (answers[frame] == answers[key]).astype(np.float32)


def cuts(film, other, rng):
    """Frames of one camera after keyframes of another."""
    (thumbnails, probabilities), (others, their) = film, other
    count = len(thumbnails) // 10
    frame, key = rng.integers(len(thumbnails), size=count), rng.integers(len(others), size=count)
    ranked = np.sort(their[key], 1)
    age = np.exp(rng.uniform(0, np.log(FAR), count)).astype(int).astype(np.float32)
    flat, keys = thumbnails[frame].reshape(count, -1), others[key].reshape(count, -1)
    rows = comparisons(keys, flat, ranked[:, -1], ranked[:, -1] - ranked[:, -2], age)
    return rows, (rng.uniform(size=count) < 1 / probabilities.shape[1]).astype(np.float32)


def train(rows, stands, rng):
    """One hidden layer of rectified units, cross entropy, Adam with a rate that falls to nothing."""
    mean, std = rows.mean(0), rows.std(0) + 1e-3
    rows = (rows - mean) / std
    weights = {"w1": rng.normal(0, rows.shape[1] ** -0.5, (rows.shape[1], HIDDEN)), "b1": np.zeros(HIDDEN),
               "w2": rng.normal(0, HIDDEN ** -0.5, HIDDEN), "b2": np.zeros(())}
    first, second = ({name: np.zeros_like(value) for name, value in weights.items()} for _ in range(2))
    steps, step = PASSES * (len(rows) // BATCH), 0
    for _ in range(PASSES):
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            chosen = order[start:start + BATCH]
            x = rows[chosen]
            units = np.maximum(x @ weights["w1"] + weights["b1"], 0)
            logits = units @ weights["w2"] + weights["b2"]
            error = (1 / (1 + np.exp(-logits)) - stands[chosen]) / BATCH
            back = np.outer(error, weights["w2"]) * (units > 0)
            gradients = {"w1": x.T @ back, "b1": back.sum(0), "w2": units.T @ error, "b2": error.sum()}
            step += 1
            rate = RATE * (1 - step / (steps + 1))
            for name, gradient in gradients.items():
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient ** 2
                move = first[name] / (1 - 0.9 ** step) / (np.sqrt(second[name] / (1 - 0.999 ** step)) + 1e-8)
                weights[name] = weights[name] - rate * (move + DECAY * weights[name])
    return {"mean": mean, "std": std, **weights}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cameras", type=int, default=600)
    arguments.add_argument("--frames", type=int, default=600)
    arguments.add_argument("--seed", type=int, default=1)
    told = arguments.parse_args()
    rng = np.random.default_rng(told.seed)
    films = [scenes.Camera(rng).film(rng, told.frames) for _ in range(told.cameras)]
    made = [pairs(*film, rng) for film in films]
    made += [cuts(film, other, rng) for film, other in zip(films, films[1:] + films[:1])]
    rows, stands = (np.concatenate(parts) for parts in zip(*made))
    print(f"{len(rows)} pairs, {stands.mean():.4f} with the same answer")
    weights = train(rows, stands, rng)
    rounded = {name: np.round(value.ravel().astype(np.float64), 6).tolist() for name, value in weights.items()}
    rounded["b2"] = rounded["b2"][0]
    text = "{\n" + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in rounded.items()) + "\n}\n"
    pathlib.Path(__file__).with_name("weights.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The loop over bare ONNX Runtime, and decoding by itself: what the machine gives when there is nothing else to do.

Decodes the pictures of --sample (one .bin each, as they came from Kafka) once, then runs the model on them: two sessions of
one thread and one session of two, in batches of 8, 32 and 64, in turns. Prints one JSON object: frames/s of each.
"""
import argparse
import json
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from pictures import DECODERS

BATCHES = (8, 32, 64)
SETUPS = {"two sessions of one thread": (2, 1), "one session of two threads": (1, 2)}


def at_once(work, threads):
    """Runs `work(number)` in so many threads; gives what they gave together, and the seconds it took."""
    results = [0] * threads

    def one(number):
        results[number] = work(number)

    began = time.perf_counter()
    started = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return sum(results), time.perf_counter() - began


def decoding(blobs, decode, seconds):
    """Frames/s of both cores; the decoders release Python's lock, which they share for the rest."""
    def work(number):
        until, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < until:
            decode(blobs[(done * 2 + number) % len(blobs)])
            done += 1
        return done

    done, took = at_once(work, 2)
    return done / took


def running(sessions, images, batch, seconds):
    feed = sessions[0].get_inputs()[0].name
    batches = [images[at:at + batch] for at in range(0, len(images) - batch + 1, batch)]

    def work(number):
        sessions[number].run(None, {feed: batches[0]})
        until, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < until:
            sessions[number].run(None, {feed: batches[done % len(batches)]})
            done += 1
        return done * batch

    done, took = at_once(work, len(sessions))
    return done / took


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--model", required=True, help="an .onnx file")
    cli.add_argument("--input", choices=DECODERS, required=True)
    cli.add_argument("--sample", required=True, type=Path, help="a folder of pictures")
    cli.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    args = cli.parse_args()
    decode = DECODERS[args.input]
    blobs = [path.read_bytes() for path in sorted(args.sample.glob("*.bin"))]
    images = np.stack([decode(blob) for blob in blobs])
    made = {}
    for name, (count, threads) in SETUPS.items():
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        made[name] = [ort.InferenceSession(args.model, options, providers=["CPUExecutionProvider"]) for _ in range(count)]
    rates = {
        f"{name}, batches of {batch}": running(sessions, images, batch, args.seconds)
        for batch in BATCHES
        for name, sessions in made.items()
    }
    print(json.dumps({"decode": decoding(blobs, decode, args.seconds), "engine": rates}))


main()

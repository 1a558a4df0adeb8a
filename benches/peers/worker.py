#!/usr/bin/env python3
"""What a good engineer writes in an afternoon instead of offramp: Kafka in, ONNX Runtime, Kafka out, batched.

A batch is what is there, at most --batch frames: it does not wait for more. Each step uses all cores that it is given, so the
steps follow each other in one thread: with one thread to fetch and decode beside another that runs and answers it was slower
here (they share Python's lock). Offsets are committed with the answers on their way, delivered or not: less than offramp
promises, and cheaper. Runs until SIGTERM.
"""
import argparse
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
from confluent_kafka import Consumer, Producer

from pictures import DECODERS


def arguments():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--bootstrap", required=True)
    cli.add_argument("--group", required=True)
    cli.add_argument("--frames", required=True, metavar="TOPIC")
    cli.add_argument("--predictions", required=True, metavar="TOPIC")
    cli.add_argument("--model", required=True, help="an .onnx file")
    cli.add_argument("--input", choices=DECODERS, required=True)
    cli.add_argument("--batch", type=int, default=32)
    cli.add_argument("--threads", type=int, default=2, help="ONNX Runtime's threads within a run")
    cli.add_argument("--decoders", type=int, default=2, help="threads that decode; 1 where pictures are tiny")
    return cli.parse_args()


def fetch(consumer, most):
    """What is there, at most so many; waits only for the first."""
    first = consumer.poll(0.05)
    if first is None:
        return []
    records = [first, *(consumer.consume(most - 1, timeout=0) if most > 1 else [])]
    return [record for record in records if not record.error()]


def classify(session, images):
    """The class of each image and how sure the model is of it."""
    logits = session.run(None, {session.get_inputs()[0].name: np.stack(images)})[0]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    best = odds.argmax(1)
    return zip(best.tolist(), odds[np.arange(len(best)), best].tolist())


def run(args, stop):
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = ort.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    consumer = Consumer({
        "bootstrap.servers": args.bootstrap, "group.id": args.group, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "fetch.max.bytes": 16 << 20,
    })
    producer = Producer({"bootstrap.servers": args.bootstrap, "linger.ms": 2, "partitioner": "murmur2_random"})
    consumer.subscribe([args.frames])
    decode = DECODERS[args.input]
    with ThreadPoolExecutor(args.decoders) as pool:
        decode_all = map if args.decoders == 1 else pool.map
        while not stop.is_set():
            records = fetch(consumer, args.batch)
            images = decode_all(decode, [record.value() for record in records])
            good = [(record, image) for record, image in zip(records, images) if image is not None]
            if good:
                answers = classify(session, [image for _, image in good])
                for (record, _), (label, confidence) in zip(good, answers):
                    key = record.key() or b""
                    frame = {"topic": record.topic(), "partition": record.partition(), "offset": record.offset()}
                    answer = {"camera": key.decode(), "frame": frame, "class": label, "confidence": confidence}
                    producer.produce(args.predictions, json.dumps(answer), key=key, timestamp=record.timestamp()[1])
                consumer.commit(asynchronous=True)
            producer.poll(0)
    producer.flush(30)
    consumer.close()


def main():
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    run(arguments(), stop)


main()

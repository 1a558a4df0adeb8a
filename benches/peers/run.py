#!/usr/bin/env python3
"""offramp against what a user would write, on a real broker: `make bench-peers`, which see for the environment.

Everything is measured in turns in one run: a Python worker (worker.py) with batches of 32 and 64 and one and two threads,
offramp with exits off, offramp with exits on after it has learned, and bare ONNX Runtime without Kafka (bare.py). Every
contender reads the same backlog: frames/s by the broker's clock, from the first answer to the last. What was measured is
kept in target/peers/results.json, and written into benches/RESULTS.md.
"""
import argparse
import datetime
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import contenders
import sources
import tables
from cluster import OFFRAMP, ROOT, Cluster, Failed, answer_of, ended, percentile, wait_for
from contenders import Model
from report import commit, machine, origin, write

WORK = ROOT / "target/peers"
PYTHON = [(batch, threads) for batch in (32, 64) for threads in (1, 2)]
RATES = (200, 1000)
AGREEMENT_LEAST = 0.8  # below this the contenders do not do the same work


def arguments():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--frames", type=int, default=40_000, help="backlog of the demo model")
    cli.add_argument("--seconds", type=float, default=20.0, help="of each latency")
    cli.add_argument("--bare-seconds", type=float, default=2.0, help="of each measurement of the bare loop")
    cli.add_argument("--warm-rate", type=int, default=300, help="frames/s while exits are learned")
    cli.add_argument("--warm-frames", type=int, default=60_000, help="by then exits must stand")
    cli.add_argument("--large", type=Path, metavar="ONNX", help="EfficientNet-Lite0, to be measured as well")
    cli.add_argument("--large-frames", type=int, default=1500, help="its backlog")
    cli.add_argument("--jpegs", type=Path, help="a video or a folder of its pictures; none: made of the committed ones")
    cli.add_argument("--write", action="store_true", help="into benches/RESULTS.md; else the tables are printed")
    return cli.parse_args()


class Bench:
    """The measurements of one model, round by round."""

    def __init__(self, cluster, model, args):
        self.cluster, self.model, self.args = cluster, model, args
        self.folder = WORK / model.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kept = {"fps": {}, "cpu": {}, "broker": {}, "bare": {}, "decode": [], "latency": {}, "threads": {}, "stages": {}, "early": {}}
        self.classes = {}

    def fill(self, frames):
        """The backlog that all but the learned worker read, and a sample of it as files."""
        self.frames = frames
        self.topic = self.cluster.topic("frames")
        self.cluster.feed(self.topic, self.model.frames, frames)
        self.cluster.sample(self.topic, min(frames, 1024 if self.model.input == "gray28" else 128), self.folder / "sample")

    def learn(self):
        """A worker learns on frames of the same kind until its policy stands; then comes the backlog, on the same topic."""
        args, cluster = self.args, self.cluster
        self.learned = {"topic": cluster.topic("frames-learned"), "group": cluster.name("learned")}
        topic, predictions = self.learned["topic"], cluster.topic("predictions")
        with self.offramp(topic, predictions, self.learned["group"]) as worker:
            wait_for("offramp is ready", contenders.START_S, worker.status)
            feeding = cluster.feed(topic, self.model.frames, args.warm_frames, args.warm_rate, wait=False)
            try:
                wait_for("exits that stand", args.warm_frames / args.warm_rate, lambda: stands(worker.status()), 1)
            finally:
                feeding.terminate()
            ended(feeding, 60)
            wait_for("the last frame of learning", 120, lambda: cluster.count(predictions) >= cluster.count(topic))
            self.learned["frames"] = cluster.count(topic)
            self.learned["status"] = worker.status()
        cluster.drop(predictions)
        self.learned["from"] = cluster.ends(topic)
        cluster.feed(topic, self.model.frames, self.frames)

    def offramp(self, topic, predictions, group, *more):
        return contenders.offramp(self.cluster, self.model, topic, predictions, group, self.folder, *more)

    def off(self, topic, predictions):
        return self.offramp(topic, predictions, self.cluster.name("off"), ("exits.enabled", "false"))

    def python(self, topic, predictions, batch, threads):
        group = self.cluster.name("python")
        return contenders.python_worker(self.cluster, self.model, topic, predictions, group, self.folder, batch, threads)

    def turn(self, name, start, topic):
        """One contender reads the backlog."""
        predictions = self.cluster.topic("predictions", stamped_by_broker=True)
        with start(topic, predictions) as contender:
            run = contenders.drain(self.cluster, contender, predictions, self.frames)
        self.cluster.drop(predictions)
        say(f"{self.model.name}: {name}: {run.fps:,.0f} frames/s")
        for what, value in (("fps", run.fps), ("cpu", sum(run.cpu_s.values())), ("broker", run.broker_cpu_s)):
            self.kept[what].setdefault(name, []).append(value)
        self.kept["threads"].setdefault(name, []).append(run.cpu_s)
        self.kept["stages"].setdefault(name, []).append(tables.stages(run.metrics))
        self.kept["early"].setdefault(name, []).append(tables.early(run.metrics))
        if topic == self.topic:
            self.classes[name.split(",")[0]] = dict(map(answer_of, run.answers))

    def round(self):
        for batch, threads in PYTHON:
            start = lambda topic, predictions: self.python(topic, predictions, batch, threads)  # noqa: B023, E731
            self.turn(f"Python worker, batches of {batch}, {threads} threads", start, self.topic)
        self.turn("offramp, exits off", self.off, self.topic)
        if hasattr(self, "learned"):
            self.cluster.rewind(self.learned["group"], self.learned["topic"], self.learned["from"])
            self.turn("offramp, exits on", self.on, self.learned["topic"])
        bare = contenders.bare(self.model, self.folder / "sample", self.args.bare_seconds)
        self.kept["decode"].append(bare["decode"])
        for setup, fps in bare["engine"].items():
            self.kept["bare"].setdefault(setup, []).append(fps)
        self.agree()

    def on(self, topic, predictions):
        return self.offramp(topic, predictions, self.learned["group"])

    def agree(self):
        """Contenders that do the same work give the same answers, but for what scaling and rounding change."""
        one, other = self.classes["Python worker"], self.classes["offramp"]
        share = sum(other.get(place) == label for place, label in one.items()) / len(one)
        if share < AGREEMENT_LEAST:
            raise Failed(f"the Python worker and offramp agree on {share:.1%} of the frames only: they do not do the same work")
        self.kept["agreement"] = share

    def latencies(self):
        """In turns as well. Its topic is new for each, so that nobody finds a backlog."""
        batch, threads = tables.best_python(self.kept)
        starts = {
            "Python worker": lambda topic, predictions: self.python(topic, predictions, batch, threads),
            "offramp, exits off": self.off,
        }
        if hasattr(self, "learned"):
            starts["offramp, exits on"] = self.on
        for rate in RATES:
            for name, start in starts.items():
                topic, predictions = self.cluster.topic("frames"), self.cluster.topic("predictions")
                with start(topic, predictions) as contender:
                    found = contenders.latencies(
                        self.cluster, contender, topic, predictions, self.model.frames, rate, self.args.seconds)
                half, worst = percentile(found, 0.5), percentile(found, 0.99)
                say(f"{self.model.name}: {name} at {rate}/s: p50 {half:.0f} ms, p99 {worst:.0f} ms")
                self.kept["latency"].setdefault(f"{name}|{rate}", []).append([half, worst])


def stands(status):
    """Whether exits are on and audits are down to little more than their floor."""
    on = status and any(one["threshold"] is not None for one in status["exits"])
    return on and status["policy"]["audit_rate"] <= 0.05


def replayed(model):
    """What the engine with exits does by itself, in one thread: `offramp replay` on the same pictures."""
    command = [OFFRAMP, "replay", "--model", model.folder, "--frames", model.frames, "--order", "shuffle", "--json"]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, timeout=1800, check=False)
    if done.returncode:
        raise Failed("`offramp replay` failed; the reason is above")
    played = json.loads(done.stdout)
    return {"fps": played["throughput"]["offramp"], "plain": played["throughput"]["plain"], "hit_rate": played["hit_rate"]}


def say(words):
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def measure(args):
    facts = machine() | {"commit": commit()}
    made = {"facts": facts, "frames": args.frames, "rounds": args.rounds}
    fashion = ROOT / "models/fashion-resnet18"
    demo = Model("demo", fashion, fashion / "backbone.onnx", "gray28", ROOT / "target/fashion/frames.npy")
    if not demo.frames.exists():
        raise Failed(f"{demo.frames} is missing; run models/fashion-resnet18/fetch.py target/fashion")
    cluster = Cluster()
    try:
        benches = [Bench(cluster, demo, args)]
        benches[0].fill(args.frames)
        benches[0].learn()
        made["learned"] = {key: benches[0].learned[key] for key in ("frames", "status")}
        if args.large:
            folder, made["jpegs"] = sources.jpegs(args.jpegs, WORK / "jpegs", 500)
            large = Model("large", sources.large_model(args.large, WORK / "efficientnet-lite0"), args.large, "rgb224", folder)
            benches.append(Bench(cluster, large, args))
            benches[1].fill(args.large_frames)
        for number in range(args.rounds):
            say(f"round {number + 1} of {args.rounds}")
            for bench in benches:
                bench.round()
        for _ in range(args.rounds):
            benches[0].latencies()
        made["replay"] = replayed(demo)
        for bench in benches:
            made[bench.model.name] = bench.kept
    finally:
        cluster.close()
    return made


def main():
    args = arguments()
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        made = measure(args)
    except Failed as failed:
        sys.exit(f"bench-peers: {failed}")
    (WORK / "results.json").write_text(json.dumps(made, indent=1))
    words = [word for word in sys.argv[1:] if word != "--write"]
    command = "make bench-peers" + (f' ARGS="{shlex.join(words)}"' if words else "")
    text = tables.text(made, origin(command, made["facts"], datetime.date.today().isoformat()))
    if args.write:
        write("peers", text)
    else:
        print(text)


main()

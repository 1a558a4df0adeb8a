"""Who is measured: the processes, what they spend, and how fast their answers come."""
import collections
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cluster import OFFRAMP, ROOT, Failed, wait_for

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
START_S = 120  # to load, measure and answer the first frame
FIRST = 100  # frames before a latency is taken
SLOWEST_FPS = 20  # slower than this a contender is given up


@dataclass
class Model:
    """A model and how the frames for it are fed and decoded."""

    name: str
    folder: Path  # with a model.toml, for offramp
    onnx: Path  # for the others
    input: str  # a decoder of pictures.py
    frames: Path  # for `offramp feed`


class Contender:
    """A worker as a process, from its start until it is stopped. What it writes goes to a file."""

    def __init__(self, name, command, log, status=None):
        self.name, self.log, self.status_at = name, log, status
        library = {"ORT_DYLIB_PATH": os.environ.get("ORT_DYLIB_PATH", str(ROOT / ".runtime/libonnxruntime.so"))}
        with log.open("ab") as file:
            self.process = subprocess.Popen([str(word) for word in command], stdout=file, stderr=file, env=os.environ | library)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"{self.name} did not end within 60 s of SIGTERM; its log is {self.log}") from None

    def alive(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with {self.process.returncode}; its log is {self.log}")
        return True

    def cpu_s(self):
        """CPU seconds so far, by thread."""
        spent = collections.Counter()
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                name, seconds = cpu_of(task / "stat")
            except (FileNotFoundError, ProcessLookupError):  # the thread has ended
                continue
            spent[name] += seconds
        return spent

    def status(self):
        """offramp's /status; None while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.status_at}/status", timeout=5) as reply:
                return json.load(reply)
        except (urllib.error.URLError, OSError):
            self.alive()
            return None

    def metrics(self):
        """offramp's metrics by name and labels, as in `name{stage="decode"}`; none before it has loaded."""
        try:
            with urllib.request.urlopen(f"http://{self.status_at}/metrics", timeout=5) as reply:
                lines = reply.read().decode().splitlines()
        except (urllib.error.URLError, OSError):
            self.alive()
            return {}
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def cpu_of(stat):
    """Name and CPU seconds of a process or thread."""
    text = stat.read_text()
    name, fields = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
    return name, (int(fields[11]) + int(fields[12])) / TICKS


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def offramp(cluster, model, topic, predictions, group, folder, *more):
    """offramp with its default settings but for `more`."""
    address = free_address()
    sets = {
        "worker.name": group, "kafka.bootstrap_servers": cluster.address, "kafka.group": group, "http.listen": address,
        "model.path": model.folder, "topics.replication": 1, "topics.frames": topic, "topics.predictions": predictions,
        "topics.dead_letters": f"{group}.dead", "topics.samples": f"{group}.samples", "topics.heads": f"{group}.heads",
    } | dict(more)
    command = [OFFRAMP, "run"]
    for key, value in sets.items():
        command += ["--set", f"{key}={value}"]
    return Contender("offramp", command, folder / f"{group}.log", address)


def python_worker(cluster, model, topic, predictions, group, folder, batch, threads):
    command = [sys.executable, HERE / "worker.py", "--bootstrap", cluster.address, "--group", group, "--frames", topic]
    command += ["--predictions", predictions, "--model", model.onnx, "--input", model.input]
    command += ["--batch", batch, "--threads", threads, "--decoders", 1 if model.input == "gray28" else 2]
    return Contender("the Python worker", command, folder / f"{group}.log")


def bare(model, sample, seconds):
    """Frames/s of bare ONNX Runtime and of decoding alone."""
    command = [sys.executable, HERE / "bare.py", "--model", model.onnx, "--input", model.input, "--sample", sample]
    done = subprocess.run(
        [str(word) for word in [*command, "--seconds", seconds]], stdout=subprocess.PIPE, text=True, timeout=600, check=False)
    if done.returncode:
        raise Failed("the bare loop failed; the reason is above")
    return json.loads(done.stdout)


@dataclass
class Run:
    """What a contender did with a backlog."""

    fps: float  # answers/s, by the broker's clock, from the first to the last
    cpu_s: dict  # by thread, per 1,000 frames
    broker_cpu_s: float  # the broker's, per 1,000 frames
    metrics: dict  # how much offramp's metrics grew meanwhile
    answers: list  # records


def drain(cluster, contender, predictions, frames):
    """Waits for so many answers. The measured part begins when the first is seen."""
    broker = Path(f"/proc/{cluster.pid}/stat")

    def look():
        contender.alive()
        metrics = contender.metrics() if contender.status_at else {}
        return cluster.count(predictions), contender.cpu_s(), cpu_of(broker)[1], metrics

    first = wait_for(f"the first answer of {contender.name}", START_S, lambda: (seen := look())[0] and seen, 0.1)
    last = wait_for(
        f"{frames} answers of {contender.name}", 60 + frames / SLOWEST_FPS, lambda: (seen := look())[0] >= frames and seen)
    per_thousand = 1000 / max(1, last[0] - first[0])
    records = cluster.read(predictions, frames)
    times = [record.timestamp()[1] for record in records]
    return Run(
        fps=(len(times) - 1) / max(0.001, (max(times) - min(times)) / 1000),
        cpu_s={name: (spent - first[1][name]) * per_thousand for name, spent in last[1].items()},
        broker_cpu_s=(last[2] - first[2]) * per_thousand,
        metrics={name: value - first[3].get(name, 0.0) for name, value in last[3].items()},
        answers=records,
    )


def latencies(cluster, contender, topic, predictions, source, rate, seconds):
    """Milliseconds from a frame's timestamp, set as it goes in, to its answer's arrival at a consumer."""
    cluster.feed(topic, source, FIRST)
    answered = lambda: contender.alive() and cluster.count(predictions) >= FIRST  # noqa: E731
    wait_for(f"the first answers of {contender.name}", START_S, answered)
    reader = cluster.reader(predictions, cluster.ends(predictions))
    frames, found = int(rate * seconds), []
    feeding = cluster.feed(topic, source, frames, rate, wait=False)
    until = time.monotonic() + 60 + 2 * seconds
    while len(found) < frames:
        record = reader.poll(0.2)
        if record is not None and not record.error():
            found.append(time.time() * 1000 - record.timestamp()[1])
        if time.monotonic() > until:
            feeding.kill()
            raise Failed(f"{contender.name} gave {len(found)} of {frames} answers at {rate} frames/s; its log is {contender.log}")
    feeding.communicate()
    reader.close()
    return found[len(found) // 10:]  # connections are made in the first tenth


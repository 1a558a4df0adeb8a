"""The tables of benches/RESULTS.md, out of what run.py kept."""
import re
import statistics

from report import best_of, spread, table

PYTHON = "Python worker"
# Threads by what they do: librdkafka's and rust-rdkafka's own, and those that offramp names.
THREADS = {
    "fetch": r"ingest$",
    "lanes": r"lane-",
    "Kafka clients": r"rdk:|producer pollin",
    "learning": r"learner|leader|heads",
}


def stages(metrics):
    """Microseconds a frame by stage of a lane, by offramp's own clock; nothing for those without metrics."""
    frames = sum(value for name, value in metrics.items() if name.startswith("offramp_frames_total"))
    found = {}
    for name, seconds in metrics.items():
        if match := re.fullmatch(r'offramp_stage_seconds_sum\{stage="(\w+)"\}', name):
            found[match[1]] = seconds / max(1, frames) * 1e6
    return found


def early(metrics):
    """Share of frames that left early."""
    finished = {name: value for name, value in metrics.items() if name.startswith("offramp_frames_total")}
    return sum(value for name, value in finished.items() if 'outcome="exit"' in name) / max(1, sum(finished.values()))


def best_python(kept):
    """Batch and threads of the better Python worker."""
    batch, threads = re.findall(r"\d+", best_of(kept["fps"], PYTHON))
    return int(batch), int(threads)


def text(made, origin):
    parts = [f"## Against what a user would write\n\n{origin}\n", intro(made)]
    for name, title in (("demo", "Demo model, Fashion-MNIST as PNG"), ("large", "EfficientNet-Lite0 at 224 x 224")):
        if name in made:
            parts.append(f"### {title}\n\n{throughput(made[name])}\n{bound(made[name], made, name)}")
    parts.append(f"### Latency, demo model\n\n{latency(made['demo'])}")
    parts.append(f"### Where the time goes, demo model\n\n{ways(made)}")
    return "\n".join(parts)


def intro(made):
    learned = made["learned"]
    lines = [
        f"Medians of {made['rounds']} rounds, with their range; in each round every contender has its turn on one broker. Frames/s: a"
        " backlog in 12 partitions, from the first answer to the last, by the broker's clock. CPU: seconds of one core per 1,000"
        " frames, all threads of the process, from the first answer seen to the last. The Python worker is"
        " `benches/peers/worker.py`, the bare loop `benches/peers/bare.py` (ONNX Runtime alone, decoded pictures in memory, no"
        " Kafka). All use the same version of ONNX Runtime and run beside the broker.\n",
        f"Exits on: the worker learned from {learned['frames']:,} frames before, at their own pace on the same topic, until its audits"
        " were down to 5 % or less; then it was stopped, the backlog came, and it was started again for each round.\n",
    ]
    if "jpegs" in made:
        lines.append(f"JPEGs of the large model: {made['jpegs']}.\n")
    return "\n".join(lines)


def throughput(kept):
    python = statistics.median(kept["fps"][best_of(kept["fps"], PYTHON)])
    engine = statistics.median(kept["bare"][best_of(kept["bare"], "")])
    rows = []
    for name, values in kept["fps"].items():
        middle = statistics.median(values)
        rows.append([name, spread(values), f"{middle / python:.2f}", f"{middle / engine:.2f}", spread(kept["cpu"][name], 2),
                     spread(kept["broker"][name], 2)])
    for name, values in kept["bare"].items():
        middle = statistics.median(values)
        rows.append([f"bare: {name}", spread(values), f"{middle / python:.2f}", f"{middle / engine:.2f}", "–", "–"])
    return table(["", "frames/s", "of the better Python worker", "of the better bare loop", "CPU s", "the broker's CPU s"], rows)


def bound(kept, made, name):
    """What decoding leaves of the bare loop."""
    engine, decode = statistics.median(kept["bare"][best_of(kept["bare"], "")]), statistics.median(kept["decode"])
    both = 1 / (1 / engine + 1 / decode)
    ours = statistics.median(kept["fps"]["offramp, exits off"])
    cores = made["facts"]["cores"]
    lines = [
        f"Decoding alone: {spread(kept['decode'])} frames/s in two threads of OpenCV, {cores * 1e6 / decode:,.0f} µs of a core a frame."
        f" Decoding and the bare engine one after the other give {both:,.0f} frames/s: with exits off offramp reaches"
        f" {ours / both:.2f} of that bound. The Python worker and offramp (exits off) give the same class for"
        f" {kept['agreement']:.1%} of the frames.\n",
    ]
    if name == "demo":
        off, on = (statistics.median(kept["fps"][f"offramp, exits {state}"]) for state in ("off", "on"))
        hit = statistics.median(kept["early"]["offramp, exits on"])
        played = made["replay"]
        lines.append(
            f"Exits on against off: {on / off:.2f} times. {hit:.0%} of the frames left early; `offramp replay` on the"
            f" same pictures: {played['hit_rate']:.0%} in its last half, {played['fps']:,.0f} frames/s in one thread"
            f" ({played['plain']:,.0f} without exits), decoding, Kafka and JSON not counted.\n")
    return "\n".join(lines)


def latency(kept):
    rows = []
    for key, values in kept["latency"].items():
        name, rate = key.split("|")
        half, worst = zip(*values)
        rows.append([name, rate, spread(half), spread(worst)])
    return "Milliseconds from a frame's timestamp, set as it is handed to the producer, to its answer's arrival at a consumer.\n\n" + table(
        ["", "frames/s", "p50, ms", "p99, ms"], rows)


def ways(made):
    """CPU of one core per frame by what it was spent on, and what is left to the engine's own rate."""
    kept, cores = made["demo"], made["facts"]["cores"]
    columns = ["offramp, exits off", "offramp, exits on"]
    spent = {name: split(kept, name) for name in columns}
    labels = list(dict.fromkeys(label for column in spent.values() for label in column))
    rows = [[label, *(f"{spent[name].get(label, 0):,.0f}" for name in columns)] for label in labels]
    total = {name: sum(spent[name].values()) for name in columns}
    rows.append(["**all**", *(f"**{total[name]:,.0f}**" for name in columns)])
    rows.append([f"{cores} cores would give, frames/s", *(f"{cores * 1e6 / total[name]:,.0f}" for name in columns)])
    rows.append(["measured, frames/s", *(f"{statistics.median(kept['fps'][name]):,.0f}" for name in columns)])
    played = made["replay"]
    rows.append([f"`replay` on {cores} cores, frames/s", *(f"{cores * played[key]:,.0f}" for key in ("plain", "fps"))])
    return (
        "Microseconds of a core per frame, medians. Threads are told apart by their names; a lane's time is split as its own"
        " `offramp_stage_seconds` are.\n\n" + table(["", *columns], rows))


def split(kept, name):
    """Microseconds a frame by stage."""
    def median(runs, pick):
        return statistics.median(pick(run) for run in runs)

    def of(pattern):
        return median(kept["threads"][name], lambda run: sum(s for thread, s in run.items() if re.match(pattern, thread))) * 1e3

    named = {label: of(pattern) for label, pattern in THREADS.items()}
    shares = {stage: median(kept["stages"][name], lambda run: run.get(stage, 0.0)) for stage in ("decode", "serve", "audit", "answer")}
    # Answers are made within serving and auditing.
    engine = max(0.0, shares["serve"] + shares["audit"] - shares["answer"])
    timed = shares["decode"] + engine + shares["answer"] or 1.0
    lanes = named.pop("lanes")
    every = median(kept["threads"][name], lambda run: sum(run.values())) * 1e3
    return {
        "fetch (polling thread)": named["fetch"],
        "decode": lanes * shares["decode"] / timed,
        "engine and heads": lanes * engine / timed,
        "JSON and handing over": lanes * shares["answer"] / timed,
        "Kafka client threads: fetch, produce, reports": named["Kafka clients"],
        "learning": named["learning"],
        "the rest of the process": max(0.0, every - lanes - sum(named.values())),
        "the broker": statistics.median(kept["broker"][name]) * 1e3,
    }

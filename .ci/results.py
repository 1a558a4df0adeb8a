#!/usr/bin/env python3
"""Measures what offramp saves, and prints it as Markdown: results.py [--readme] [NAME ...]

Each NAME (all by default) is one replay; what it prints and its report are kept in target/results/NAME.json and NAME.html.
The tables hold every replay that was kept, whenever it ran. --readme puts them into the README, between its markers.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "target/results"
FASHION, CIFAR = "models/fashion-resnet18", "models/cifar10-resnet18"
TEST_SET = [f"{FASHION}/data/t10k-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1")]
DRIFTS = {
    "bright": "half brightness",
    "jpeg20": "JPEG quality 20",
    "blur": "blur, sigma 1",
    "rotate": "20 degrees of rotation",
    "noise": "noise, sigma 25",
    "flip": "upside down",
}
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def stream(folder):
    return [f"target/{folder}/frames.npy", f"target/{folder}/labels.npy"]


# Name: model, frames and labels, further arguments.
REPLAYS = {
    "fashion": (FASHION, TEST_SET, ["--order", "shuffle"]),
    "cifar": (CIFAR, stream("cifar10"), ["--order", "shuffle"]),
    "bursts": (FASHION, TEST_SET, ["--order", "bursts"]),
    **{f"drift-{kind}": (FASHION, stream("fashion"), ["--drift", kind]) for kind in DRIFTS},
}
ROWS = {
    "fashion": "Fashion-MNIST, shuffled",
    "cifar": "CIFAR-10, shuffled",
    "bursts": "Fashion-MNIST, bursts of one class",
}


def replay(name, more):
    model, (frames, labels), arguments = REPLAYS[name]
    command = ["target/release/offramp", "replay", "--model", model, "--frames", frames, "--labels", labels]
    command += [*arguments, "--json", "--report", str(KEPT / f"{name}.html"), *more]
    print("offramp:", " ".join(command), file=sys.stderr)
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    (KEPT / f"{name}.json").write_bytes(result.stdout)


def kept(name):
    path = KEPT / f"{name}.json"
    return json.loads(path.read_bytes()) if path.exists() else None


def percent(share, digits=1):
    return "–" if share is None else f"{share * 100:.{digits}f} %"


def row(title, run):
    promise, accuracy, perfect = run["certificate"], run["accuracy"], run["perfect"]
    first = run["first_exit_frame"]
    cells = [
        f"{title}, {run['frames']:,} frames",
        percent(1 - run["flops_ratio"]),
        percent(1 - perfect["flops_ratio"]) if perfect else "–",
        f"{run['time_ratio']:.2f}",
        percent(run["disagreement"], 2),
        percent(promise["bound"], 2) if promise else "none",
        f"{percent(accuracy['served'], 2)} / {percent(accuracy['backbone'], 2)}" if accuracy else "–",
        "none" if first is None else f"{first:,}",
    ]
    return "| " + " | ".join(cells) + " |"


def drift_row(kind, run):
    begin = run["drift"]["from"]
    alarms = [alarm for alarm in run["alarms"] if alarm["frame"] >= begin]
    off = f"{alarms[0]['frame'] - begin:,}" if alarms else "no alarm"
    # The first alarm's: exits may go off again later.
    back = alarms[0]["exits_back_at"] if alarms else None
    cells = [
        DRIFTS[kind],
        percent(run["disagreement"], 2),
        off,
        f"{back - begin:,}" if back else "–",
        str(len(alarms)),
        percent(run["hit_rate"]),
        percent(1 - run["flops_ratio"]),
    ]
    return "| " + " | ".join(cells) + " |"


def tables():
    lines = [
        "| stream | FLOPs saved | by perfect exits | time, plain model = 1 | disagreement | bound | accuracy, served / model"
        " | first exit at frame |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [row(title, run) for name, title in ROWS.items() if (run := kept(name))]
    drifts = {kind: run for kind in DRIFTS if (run := kept(f"drift-{kind}"))}
    if drifts:
        worst = max(drifts, key=lambda kind: drifts[kind]["disagreement"])
        lines.append(row(f"Fashion-MNIST, then under drift ({DRIFTS[worst]}, the worst of six)", drifts[worst]))
    lines.append("| *Abedi et al., the best of their models* | *58 %* | | *0.54* | | | | |")
    if drifts:
        lines += [
            "",
            "| drift from frame 10,000 of 20,000 | disagreement | exits off after | back on after | alarms | left early"
            " | FLOPs saved |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [drift_row(kind, run) for kind, run in drifts.items()]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(REPLAYS))
    parser.add_argument("--readme", action="store_true", help="write the tables into the README")
    parser.add_argument("--print", action="store_true", help="replay nothing, print what was kept")
    args, more = parser.parse_known_args()
    unknown = [name for name in args.names if name not in REPLAYS]
    if unknown:
        parser.error(f"there is no replay {', '.join(unknown)}; there are {', '.join(REPLAYS)}")
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in [] if args.print else args.names or REPLAYS:
        replay(name, more)
    text = tables()
    print(text, end="")
    if args.readme:
        readme = ROOT / "README.md"
        before, rest = readme.read_text().split(BEGIN)
        after = rest.split(END)[1]
        readme.write_text(before + BEGIN + text + END + after)


main()

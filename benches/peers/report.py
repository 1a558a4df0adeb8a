"""What was measured, as Markdown, into its place in benches/RESULTS.md."""
import os
import platform
import statistics
import subprocess
from pathlib import Path

from cluster import ROOT

RESULTS = ROOT / "benches/RESULTS.md"
HEAD = """# Measured

Each section is written by the command that it names; nothing here is typed by hand.
"""


def machine():
    """The processor, its cores, and how busy it was before."""
    named = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {
        "cpu": named[0] if named else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{memory:.0f} GiB",
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def commit():
    """The commit, and whether anything else than the results differs from it."""
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches/RESULTS.md")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def origin(command, facts, date):
    return (f"`{command}`, commit {facts['commit']}, {date}; {facts['cpu']}, {facts['cores']} cores, {facts['memory']}, load {facts['load']}"
            " before it began.")


def write(section, text):
    """Puts a section in place of its former self, or behind the others."""
    begin, end = f"<!-- {section}: begin -->\n", f"<!-- {section}: end -->\n"
    whole = RESULTS.read_text() if RESULTS.exists() else HEAD
    if begin in whole:
        before, rest = whole.split(begin)
        whole = before + begin + text + end + rest.split(end)[1]
    else:
        whole += "\n" + begin + text + end
    RESULTS.write_text(whole)


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def spread(values, digits=0):
    """Median and range."""
    if not values:
        return "–"
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{median:,.{digits}f} ({least:,.{digits}f} to {most:,.{digits}f})"


def best_of(kept, prefix):
    """The contender of that kind with the best median."""
    kind = {name: statistics.median(values) for name, values in kept.items() if name.startswith(prefix)}
    return max(kind, key=kind.get)

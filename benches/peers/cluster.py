"""The real broker: topics, frames in, answers out. Every wait is bounded, and says what it waited for."""
import json
import os
import subprocess
import time
from pathlib import Path

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

ROOT = Path(__file__).resolve().parent.parent.parent
OFFRAMP = Path(os.environ.get("OFFRAMP", ROOT / "target/release/offramp"))
PARTITIONS = 12
CAMERAS = 96  # so many keys that no partition is empty
REQUEST_S = 20


class Failed(Exception):
    """What went wrong, in words for whoever ran the command."""


def wait_for(what, limit_s, probe, every_s=0.2):
    """What `probe` gives, as soon as that is something."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if (found := probe()) not in (None, False):
            return found
        time.sleep(every_s)
    raise Failed(f"{what}: not within {limit_s:.0f} s")


class Cluster:
    """One broker of the tests' own kind; stopped and deleted at the end if it was started here."""

    def __init__(self):
        self.script = ROOT / "tests/kafka/broker"
        self.ours = subprocess.run([self.script, "address"], stdout=subprocess.DEVNULL, check=False).returncode != 0
        started = subprocess.run([self.script, "start"], stdout=subprocess.PIPE, text=True, timeout=300, check=False)
        if started.returncode:
            raise Failed("the broker does not start; the reason is above")
        self.address = started.stdout.strip()
        self.admin = AdminClient({"bootstrap.servers": self.address})
        self.run = f"{time.time():.0f}"
        self.made = 0

    def close(self):
        if self.ours:
            subprocess.run([self.script, "clean"], timeout=60, check=False)

    @property
    def pid(self):
        """The broker's process."""
        return int((ROOT / ".kafka/pid").read_text())

    def name(self, what):
        """A name that no topic or group has had."""
        self.made += 1
        return f"{what}.{self.run}-{self.made}"

    def topic(self, what, stamped_by_broker=False):
        """A new topic of twelve partitions. Stamped by the broker, its records tell when they came to the log."""
        name = self.name(what)
        config = {"message.timestamp.type": "LogAppendTime" if stamped_by_broker else "CreateTime"}
        self.admin.create_topics([NewTopic(name, PARTITIONS, 1, config=config)])[name].result(REQUEST_S)
        wait_for(f"topic {name}", REQUEST_S, lambda: self.ends(name))
        return name

    def drop(self, topic):
        self.admin.delete_topics([topic])[topic].result(REQUEST_S)

    def ends(self, topic):
        """The end of each partition; None while a partition has no leader."""
        wanted = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(PARTITIONS)}
        try:
            found = self.admin.list_offsets(wanted, request_timeout=REQUEST_S)
            return [found[partition].result(REQUEST_S).offset for partition in wanted]
        except KafkaException:
            return None

    def count(self, topic):
        """Records in the topic: nothing is deleted from it and no transaction writes to it."""
        return sum(self.ends(topic) or [0])

    def rewind(self, group, topic, offsets):
        """The group, which must be empty, reads on from there."""
        partitions = [TopicPartition(topic, number, offset) for number, offset in enumerate(offsets)]

        def moved():
            try:
                asked = self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, partitions)])
                return asked[group].result(REQUEST_S)
            except KafkaException:  # a member that was killed has its session to go
                return None

        wait_for(f"group {group} is empty", 60, moved)

    def feed(self, topic, source, frames, rate=None, wait=True):
        """Frames into the topic by `offramp feed`; the running process where it shall not be waited for."""
        command = [OFFRAMP, "feed", "--bootstrap", self.address, "--topic", topic]
        command += ["--frames", source, "--loop", "--limit", frames, "--cameras", CAMERAS]
        command += ["--rate", rate] if rate else []
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return ended(process, 120 + frames / (rate or 500)) if wait else process

    def sample(self, topic, count, folder):
        """The first frames of the topic as files: what the contenders decode."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, record in enumerate(self.read(topic, count)):
            (folder / f"{number:06}.bin").write_bytes(record.value())

    def read(self, topic, count):
        """So many records of the topic, partitions mixed."""
        consumer = self.reader(topic, [0] * PARTITIONS)
        records, until = [], time.monotonic() + REQUEST_S + count / 2000
        while len(records) < count:
            if time.monotonic() > until:
                raise Failed(f"{len(records)} of {count} records of {topic} could be read")
            records += [record for record in consumer.consume(min(count - len(records), 10_000), timeout=1) if not record.error()]
        consumer.close()
        return records

    def reader(self, topic, offsets):
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": self.name("reader"), "enable.auto.commit": False})
        consumer.assign([TopicPartition(topic, number, offset) for number, offset in enumerate(offsets)])
        return consumer


def ended(process, limit_s):
    """Waits for a command of ours; what it printed."""
    try:
        printed, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failed(f"{process.args[:2]} did not end within {limit_s:.0f} s") from None
    if process.returncode:
        raise Failed(f"{process.args[:2]} ended with {process.returncode}: {printed}")
    return printed


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def answer_of(record):
    """Place of the frame, and its class."""
    value = json.loads(record.value())
    return (value["frame"]["partition"], value["frame"]["offset"]), value["class"]

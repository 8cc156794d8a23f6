"""Runs a command and measures it from outside: wall time, processor time and the memory of its whole process tree.

Memory is the proportional set size (PSS): pages that several processes share count once, so ranks of an MPI job and the
threads of one process are compared fairly. It is sampled; the sum of every process's own high-water mark, which sampling cannot
miss but which counts shared pages several times, is kept beside it.
"""

import os
import resource
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SHORTEST_INTERVAL = 0.1  # seconds between samples
LARGEST_SHARE = 0.02  # of one core's time that sampling may take


class CommandFailed(Exception):
    """The command ended with an error; the message has the end of its output."""


@dataclass
class Measurement:
    seconds: float
    cpu_seconds: float
    peak_pss_bytes: int
    sum_of_high_water_bytes: int
    other_cores: float  # cores kept busy by everything else meanwhile: well above 0 means the machine was not quiet

    def as_dict(self):
        return dict(vars(self))


def children(pid):
    try:
        return [int(child) for task in os.listdir(f"/proc/{pid}/task")
                for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    except OSError:
        return []  # ended meanwhile


def process_tree(root):
    """Process ids of `root` and all its descendants."""
    tree = [root]
    for pid in tree:
        tree.extend(children(pid))
    return tree


def kilobytes(path, key):
    """The value of `key` in one of /proc's files, in bytes; 0 where the process has ended."""
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class MemorySampler(threading.Thread):
    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid = pid
        self.stopped = threading.Event()
        self.peak_pss = 0
        self.high_water = {}

    def run(self):
        interval = SHORTEST_INTERVAL
        while not self.stopped.wait(interval):
            start = time.thread_time()
            self.sample()
            interval = max(SHORTEST_INTERVAL, (time.thread_time() - start) / LARGEST_SHARE)

    def sample(self):
        tree = process_tree(self.pid)
        self.peak_pss = max(self.peak_pss, sum(kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in tree))
        for pid in tree:
            self.high_water[pid] = max(self.high_water.get(pid, 0), kilobytes(f"/proc/{pid}/status", "VmHWM:"))

    def stop(self):
        self.stopped.set()
        self.join()


def busy_seconds():
    """Processor time that all processes of the machine together have used since it started."""
    user, nice, system, _, _, interrupts, soft_interrupts = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def end_tree(root):
    """Kills `root` and all its descendants."""
    for pid in process_tree(root):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # ended meanwhile


def measure(command, log_path, environment=None, limit_seconds=None, folder=None):
    """Runs `command` in `folder` (the current one) with its output in `log_path`.

    Raises CommandFailed where it fails or exceeds the limit.
    """
    busy_before = busy_seconds()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with open(log_path, "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   cwd=folder, env={**os.environ, **(environment or {})})
        sampler = MemorySampler(process.pid)
        sampler.start()
        try:
            code = process.wait(limit_seconds)
            seconds = time.perf_counter() - start
        except subprocess.TimeoutExpired as error:
            end_tree(process.pid)
            process.wait()
            raise CommandFailed(f"not finished after {limit_seconds:g} s") from error
        finally:
            sampler.stop()
    busy = busy_seconds() - busy_before
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code != 0:
        tail = "\n".join(Path(log_path).read_text(errors="replace").splitlines()[-15:])
        raise CommandFailed(f"{Path(command[0]).name} ended with code {code}; the end of {log_path}:\n{tail}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measurement(seconds, cpu, sampler.peak_pss, sum(sampler.high_water.values()),
                       max(0.0, (busy - cpu) / seconds))

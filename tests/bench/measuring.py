"""What the programs that measure share: asking the client and the servers, the machine in words, medians, and figures as text."""

import json
import os
import platform
import statistics
import subprocess
import sys


def fail(reason):
    """Ends the program with one line that starts with its name."""
    sys.exit(f"{os.path.splitext(os.path.basename(sys.argv[0]))[0]}: {reason}")


def objects(command, environment=None, timeout=None, attempts=1):
    """What a program prints: one JSON object a line. It is run again when it fails, up to so many times in all."""
    for _ in range(attempts):
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment, timeout=timeout)
        except OSError as error:
            fail(f"{command[0]} cannot be run: {error.strerror}; `make build` makes it")
        except subprocess.TimeoutExpired:
            fail(f"{' '.join(command)} has not ended within {timeout:.0f} s")
        try:
            lines = [json.loads(line) for line in done.stdout.splitlines()]
        except ValueError:
            lines = []
        if done.returncode == 0 and lines:
            return lines
    times = f", {attempts} times in a row" if attempts > 1 else ""
    return fail(f"{' '.join(command)} ended with {done.returncode}{times}: {done.stdout.strip()}")


class Cluster:
    """The servers, as far as they tell of themselves; those in APEXKV_ENDPOINTS if none are named."""

    def __init__(self, client, endpoints=None):
        self.client = client
        self.environment = {**os.environ, "APEXKV_ENDPOINTS": endpoints} if endpoints else None

    def nodes(self):
        """The STATUS of every node that answers."""
        lines = objects([self.client, "-o", "json", "status"], self.environment, timeout=60)
        return [line["node"] for line in lines if line["ok"]]

    def bench(self, *flags, timeout=None, attempts=1):
        """The result of one run of the client's load."""
        return objects([self.client, "-o", "json", "bench", *map(str, flags)], self.environment, timeout, attempts)[0]


def machine(folder):
    """The lines that say where the figures come from."""
    cores = len(os.sched_getaffinity(0))
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    load = os.getloadavg()[0]
    lines = [f"{cores} cores ({model}), {platform.system()} {platform.release()}, {file_system(folder)}"]
    if load > cores / 2:
        lines.append(f"The machine is busy: load {load:.1f} on {cores} cores before the first run. The figures are worth that much less.")
    return lines


def file_system(folder):
    """Type and source of the mount that the folder lies on."""
    folder, best = os.path.realpath(folder), ("", "unknown file system")
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            source, point, kind = line.split()[:3]
            inside = point == "/" or folder == point or folder.startswith(point + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, f"{kind} on {source}")
    return best[1] + (" (memory: a sync costs nothing here)" if best[1].startswith("tmpfs") else "")


def median(runs, name):
    values = [run[name] for run in runs if run.get(name) is not None]
    return statistics.median(values) if values else None


def progress(text):
    """Replaces the line of progress, on terminals."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def milliseconds(result):
    return f"{result['p50_us'] / 1000:.2f} / {result['p99_us'] / 1000:.2f}"


def failures(results):
    """The requests that failed in some runs, by kind."""
    errors = {}
    for result in results:
        for name, count in result["errors"].items():
            errors[name] = errors.get(name, 0) + count
    return ", ".join(f"{name} {count:,}" for name, count in errors.items())

#!/usr/bin/env python3
"""How throughput changes as keys, connections and values grow: a table in Markdown, and a plot with --plot.

Run by `make growth`. It starts scratch clusters of three nodes on this machine, and fills them before it measures. The points of a cluster
are measured in turn, RUNS times, reads before writes and small values before large ones; before each turn it waits until the servers have
stopped writing to the disk. Ctrl-C, or any other end, takes clusters and files with it.
"""

import argparse
import contextlib
import json
import os
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time

from measuring import Cluster, fail, failures, machine, median, milliseconds, number, progress
from plot import Panel, svg

KEY_SIZE, VALUE_SIZE = 16, 256
# Keys as they grow, and the connections meanwhile.
KEYS, KEYS_CONNECTIONS = [10_000, 1_000_000, 10_000_000], 64
# Connections as they grow, and the keys meanwhile.
CONNECTIONS, CONNECTIONS_KEYS = [1, 4, 16, 64, 256, 1000], 100_000
# Values as they grow, each with a length of the keys that is its own: all lie in one cluster and must not overwrite each other. Those of
# VALUE_SIZE bytes are the keys of the part before, and share its point.
VALUES = {64: 17, VALUE_SIZE: KEY_SIZE, 1 << 10: 18, 4 << 10: 19, 16 << 10: 20, 64 << 10: 21, 256 << 10: 22, 1 << 20: 23}
VALUES_CONNECTIONS = 16
# Most bytes of values of one size; all sizes together stay below 256 MiB.
LIVE_BYTES = 32 << 20
OPERATIONS = ["get", "set"]

NODES = 3
# Seconds.
WARMUP, POINT_OVERHEAD, START, START_MAX, END_MAX = 0.2, 0.2, 1.5, 60, 30
# How often a load is tried that ends without a result, because an election came in between.
ATTEMPTS = 3
# The disk is calm when all servers together write less than this in a look, for so many seconds.
CALM_BYTES, CALM_LOOK, CALM = 1 << 20, 0.5, 2
# What to expect of the fill, for the estimate only.
FILL_KEYS_PER_SECOND, FILL_BYTES_PER_SECOND = 80_000, 80_000_000
# Disk of a node: segments ahead, the reserve and the log that is kept, besides the values; a record's head; room for what merging replaces.
NODE_BYTES, RECORD_HEAD, VALUES_FACTOR = 700 << 20, 64, 2


class ScratchCluster(Cluster):
    """A cluster that lives until `end`, or until this program is gone: it waits for the end of its standard input."""

    def __init__(self, binaries, folder):
        super().__init__(binaries["apexkv-client"], None)
        command = [binaries["apexkv-chaos"], "with-cluster", "--nodes", str(NODES), "--scratch-in", folder]
        command += ["--", "sh", "-c", 'echo "$APEXKV_ENDPOINTS"; exec cat']
        # In a session of its own, so that Ctrl-C ends the cluster in order: through this program.
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)

    def wait_ready(self):
        ready, _, _ = select.select([self.process.stdout], [], [], START_MAX)
        endpoints = self.process.stdout.readline().strip() if ready else ""
        if not endpoints:
            fail(f"no scratch cluster within {START_MAX} s")
        self.environment = {**os.environ, "APEXKV_ENDPOINTS": endpoints}
        nodes = self.nodes()
        if len(nodes) < NODES:
            fail("a node of the scratch cluster does not answer")
        self.processes = [node["pid"] for node in nodes]
        self.elections_seen = {node["id"]: node["counters"]["elections_started"] for node in nodes}

    def end(self):
        self.process.stdin.close()
        # The first SIGTERM asks for what the end of the input has asked for; the second ends it at once, with its servers.
        for _ in range(3):
            try:
                self.process.wait(END_MAX)
                return
            except subprocess.TimeoutExpired:
                self.process.terminate()

    def elections(self):
        """Elections since the last call."""
        count = 0
        for node in self.nodes():
            started = node["counters"]["elections_started"]
            count += started - self.elections_seen.get(node["id"], 0)
            self.elections_seen[node["id"]] = started
        return count

    def applied(self):
        """Entries of the log that have been applied: the writes, and an entry for each election."""
        return max(node["counters"]["entries_applied"] for node in self.nodes())

    def written(self):
        """Bytes that each server has sent to the disk."""
        return [field(f"/proc/{process}/io", "write_bytes") for process in self.processes]

    def resident(self):
        """Bytes of memory that each server holds besides its files."""
        return [field(f"/proc/{process}/status", "RssAnon") * 1024 for process in self.processes]

    def fill(self, keys, key_size, value_size):
        progress(f"writing {keys:,} keys with values of {size(value_size)}")
        flags = ["--workload", "get", "--prefill", "yes", "--keys", keys, "--key-size", key_size, "--value-size", value_size]
        longest = 60 + 20 * fill_seconds(keys, value_size)
        self.bench(*flags, "--duration", "200ms", "--warmup", "0s", "--timeout", "30s", timeout=longest, attempts=ATTEMPTS)

    def measure(self, operation, connections, keys, key_size, value_size, seconds):
        flags = ["--workload", operation, "--prefill", "no", "--connections", connections]
        flags += ["--keys", keys, "--key-size", key_size, "--value-size", value_size]
        flags += ["--duration", f"{seconds * 1000:.0f}ms", "--warmup", f"{WARMUP * 1000:.0f}ms"]
        result = self.bench(*flags, timeout=seconds + 60, attempts=ATTEMPTS)
        result["elections"] = self.elections()
        return result


def settle(clusters, longest):
    """Waits until the servers write no more, at most so many seconds. Returns whether they do."""
    def written():
        return sum(sum(cluster.written()) for cluster in clusters)

    deadline = time.monotonic() + longest
    calm_since, last = time.monotonic(), written()
    while time.monotonic() < deadline:
        time.sleep(CALM_LOOK)
        now = written()
        if now - last > CALM_BYTES:
            calm_since = time.monotonic()
        if time.monotonic() - calm_since >= CALM:
            return True
        last = now
    return False


def field(file, name):
    """A number out of a file of the proc file system."""
    try:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(name + ":"):
                    return int(line.split()[1])
    except OSError as error:
        fail(f"{file}: {error.strerror}; has the server ended?")
    return fail(f"{file} does not tell {name}")


def values_keys(value_size):
    return min(CONNECTIONS_KEYS, LIVE_BYTES // value_size) if value_size != VALUE_SIZE else CONNECTIONS_KEYS


def fill_seconds(keys, value_size):
    return keys / FILL_KEYS_PER_SECOND + keys * value_size / FILL_BYTES_PER_SECOND


def points_of_size():
    """Curve, x and arguments of what is measured on the cluster for connections and values."""
    points = [("connections", count, (count, CONNECTIONS_KEYS, KEY_SIZE, VALUE_SIZE)) for count in CONNECTIONS]
    for value_size, key_size in VALUES.items():
        if value_size != VALUE_SIZE:
            points.append(("values", value_size, (VALUES_CONNECTIONS, values_keys(value_size), key_size, value_size)))
    return points


class Run:
    """One run of this program: its settings, and what it found."""

    def __init__(self, binaries, folder, runs, seconds, keys):
        self.binaries, self.folder, self.runs, self.seconds, self.keys = binaries, folder, runs, seconds, keys
        self.points, self.costs, self.restless = {}, [], 0

    @contextlib.contextmanager
    def cluster(self):
        progress("starting a cluster")
        cluster = ScratchCluster(self.binaries, self.folder)
        try:
            cluster.wait_ready()
            yield cluster
        finally:
            cluster.end()

    def settle(self, clusters, longest):
        progress("waiting until the disk is calm")
        self.restless += not settle(clusters, longest)
        # Those of the fill and of the pause are in no point.
        for cluster in clusters:
            cluster.elections()

    def turn(self, turn, steps):
        """Measures each step once: the cluster, the curve, x, and the arguments."""
        for position, (cluster, curve, x, operation, arguments) in enumerate(steps):
            progress(f"{curve}: run {turn + 1} of {self.runs}, {position + 1} of {len(steps)}: {operation.upper()} at {x:,}")
            result = cluster.measure(operation, *arguments, self.seconds)
            self.points.setdefault((curve, x, operation), []).append(result)

    def measure_keys(self):
        with contextlib.ExitStack() as stack:
            clusters = {keys: stack.enter_context(self.cluster()) for keys in self.keys}
            # Whatever new nodes prepare is done before their bytes count.
            self.settle(clusters.values(), 10)
            before = {keys: (sum(cluster.written()), cluster.applied()) for keys, cluster in clusters.items()}
            for keys, cluster in clusters.items():
                cluster.fill(keys, KEY_SIZE, VALUE_SIZE)
            resident = {keys: [0] * NODES for keys in clusters}
            for turn in range(self.runs):
                self.settle(clusters.values(), 10 + (max(self.keys) / 50_000 if turn == 0 else 0))
                for operation in OPERATIONS:
                    self.turn(turn, [(cluster, "keys", keys, operation, (KEYS_CONNECTIONS, keys, KEY_SIZE, VALUE_SIZE))
                                     for keys, cluster in clusters.items()])
                    for keys, cluster in clusters.items():
                        resident[keys] = [max(pair) for pair in zip(resident[keys], cluster.resident())]
            self.settle(clusters.values(), 10)
            for keys, cluster in clusters.items():
                written, applied = before[keys]
                user = (cluster.applied() - applied) * (KEY_SIZE + VALUE_SIZE)
                self.costs.append({"keys": keys, "resident": resident[keys], "written": sum(cluster.written()) - written, "user": user})

    def measure_sizes(self):
        points = points_of_size()
        with self.cluster() as cluster:
            for value_size, key_size in VALUES.items():
                cluster.fill(values_keys(value_size), key_size, value_size)
            for turn in range(self.runs):
                self.settle([cluster], 10)
                steps = [(cluster, curve, x, operation, arguments) for operation in OPERATIONS for curve, x, arguments in points]
                self.turn(turn, steps)
        for operation in OPERATIONS:
            self.points["values", VALUE_SIZE, operation] = self.points["connections", VALUES_CONNECTIONS, operation]

    def figures(self, lines):
        points = [{"curve": curve, "x": x, "operation": operation, "runs": results}
                  for (curve, x, operation), results in self.points.items()]
        return {"version": 1, "machine": lines, "runs": self.runs, "seconds": self.seconds, "points": points, "costs": self.costs,
                "restless": self.restless}

    def plan(self):
        """The parts with the seconds that each will take."""
        point = self.seconds + WARMUP + POINT_OVERHEAD
        fills = sum(fill_seconds(keys, VALUE_SIZE) for keys in self.keys)
        calm = (self.runs + 2) * CALM
        keys = len(self.keys) * (START + len(OPERATIONS) * self.runs * point) + fills + calm
        fills = sum(fill_seconds(values_keys(value_size), value_size) for value_size in VALUES)
        sizes = START + len(points_of_size()) * len(OPERATIONS) * self.runs * point + fills + self.runs * CALM
        return [(f"{' and '.join(f'{keys:,}' for keys in self.keys)} keys", keys), ("connections and values", sizes)]

    def room(self):
        """Bytes of disk that the larger of the two parts needs."""
        records = [keys * (KEY_SIZE + VALUE_SIZE + RECORD_HEAD) for keys in self.keys]
        values = sum(values_keys(value_size) * (key_size + value_size + RECORD_HEAD) for value_size, key_size in VALUES.items())
        return NODES * max(sum(NODE_BYTES + VALUES_FACTOR * bytes for bytes in records), NODE_BYTES + VALUES_FACTOR * values)


def size(count):
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count // unit} {name}"
    return f"{count} B"


def count_name(count):
    return f"{count // 1_000_000}M" if count >= 1_000_000 else f"{count // 1000}k" if count >= 10_000 else str(count)


def markdown(heads, rows):
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---:|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


class Report:
    """Figures, as they were kept by --figures, in words and lines."""

    def __init__(self, figures):
        self.figures, self.found = figures, {}
        for point in figures["points"]:
            self.found[point["curve"], point["x"], point["operation"]] = point["runs"]
        for curve in ("keys", "connections", "values"):
            missing = [x for x in self.of(curve) for operation in OPERATIONS if not self.found.get((curve, x, operation))]
            if missing or not self.of(curve):
                raise ValueError(f"points of {curve} are missing")

    def of(self, curve):
        return sorted({x for name, x, _ in self.found if name == curve})

    def middle(self, curve, x, operation):
        runs = self.found[curve, x, operation]
        return {name: median(runs, name) for name in ("operations_per_second", "p50_us", "p99_us")}

    def speeds(self, curve, x):
        for operation in ("set", "get"):
            middle = self.middle(curve, x, operation)
            yield number(middle["operations_per_second"])
            yield milliseconds(middle)

    def keys(self):
        costs = {cost["keys"]: cost for cost in self.figures["costs"]}
        for keys in self.of("keys"):
            memory = max(costs[keys]["resident"]) / 1e6
            factor = costs[keys]["written"] / NODES / max(costs[keys]["user"], 1)
            yield [f"{keys:,}", *self.speeds("keys", keys), f"{number(memory)} MB", number(factor, 1)]

    def values(self):
        for value_size in self.of("values"):
            row = [size(value_size), number(values_keys(value_size))]
            for operation in ("set", "get"):
                speed = self.middle("values", value_size, operation)["operations_per_second"]
                row += [number(speed), number(speed * value_size / 1e6, 1 if speed * value_size < 1e8 else 0)]
            yield row

    def tables(self):
        speeds = ["SET/s", "p50 / p99 ms", "GET/s", "p50 / p99 ms"]
        yield from markdown(["keys", *speeds, "memory of a server", "written / byte"], self.keys())
        yield from markdown(["connections", *speeds], ([f"{x:,}", *self.speeds("connections", x)] for x in self.of("connections")))
        yield from markdown(["value", "keys", "SET/s", "MB/s", "GET/s", "MB/s"], self.values())

    def notes(self):
        runs, seconds = self.figures["runs"], self.figures["seconds"]
        yield from self.figures["machine"]
        yield (f"Medians of {runs} run{'s' if runs != 1 else ''} of {seconds:g} s each, in turn; servers and load share the machine. "
               f"Keys grow with {KEYS_CONNECTIONS} connections, connections with {CONNECTIONS_KEYS:,} keys, values with "
               f"{VALUES_CONNECTIONS} connections.")
        # The point that two curves share counts once.
        shared = [("values", VALUE_SIZE, operation) for operation in OPERATIONS]
        points = {point: runs for point, runs in self.found.items() if point not in shared}
        yield f"Elections meanwhile: {sum(run['elections'] for runs in points.values() for run in runs)}."
        failed = [f"{operation.upper()} with {f'values of {size(x)}' if curve == 'values' else f'{x:,} {curve}'}: {failures(runs)}"
                  for (curve, x, operation), runs in points.items() if failures(runs)]
        yield f"Failed requests, which are in no figure: {'; '.join(failed) or 'none'}."
        if self.figures["restless"]:
            yield f"The disk was still busy {self.figures['restless']} times when the wait for it ended."

    def panel(self, title, axis, curve, names, logarithmic=False):
        lines = {operation: [] for operation in ("set", "get")}
        for operation, points in lines.items():
            for x in self.of(curve):
                speeds = [run["operations_per_second"] for run in self.found[curve, x, operation]]
                points.append((x, min(speeds), statistics.median(speeds), max(speeds)))
        return Panel(title, axis, lines, names, logarithmic)

    def plot(self):
        counts = {x: count_name(x) for curve in ("keys", "connections") for x in self.of(curve)}
        sizes = {x: size(x) for position, x in enumerate(self.of("values")) if position % 2 == 0}
        return svg([
            self.panel(f"Keys, at {KEYS_CONNECTIONS} connections", "keys", "keys", counts),
            self.panel(f"Connections, at {CONNECTIONS_KEYS:,} keys", "connections", "connections", counts),
            self.panel(f"Values, at {VALUES_CONNECTIONS} connections", "size of a value (both axes logarithmic)", "values", sizes, True),
        ])


def programs(folder):
    """The paths of the three programs."""
    found = {}
    for name in ("apexkv", "apexkv-client", "apexkv-chaos"):
        found[name] = os.path.abspath(os.path.join(folder, name))
        if not os.access(found[name], os.X_OK) or not os.path.isfile(found[name]):
            fail(f"there is no program {found[name]}: run `make build`, or name their folder with --bin")
    return found


def check_output(file):
    """Refuses before the work what could not be written after it."""
    folder = os.path.dirname(os.path.abspath(file))
    if os.path.isdir(file) or not os.access(file if os.path.exists(file) else folder, os.W_OK):
        fail(f"cannot write {file}: name a file in a folder that is there and may be written to")


def write(file, content):
    try:
        with open(file, "w", encoding="utf-8") as out:
            out.write(content)
    except OSError as error:
        fail(f"cannot write {file}: {error.strerror}")


def measure(arguments):
    """All figures, from scratch clusters that are gone afterwards."""
    binaries = programs(arguments.bin)
    try:
        os.makedirs(arguments.scratch_in, exist_ok=True)
        free = shutil.disk_usage(arguments.scratch_in).free
    except OSError as error:
        fail(f"cannot use the folder {arguments.scratch_in}: {error.strerror}; name another one with --scratch-in")
    folder = os.path.join(os.path.abspath(arguments.scratch_in), f"apexkv-growth-{os.getpid()}")
    run = Run(binaries, folder, arguments.runs, arguments.seconds, [keys for keys in KEYS if keys <= arguments.keys_max])
    if free < run.room():
        fail(f"{arguments.scratch_in} has {free / 1e9:.1f} GB free and {run.room() / 1e9:.1f} GB are needed: make room, or name another "
             "folder with --scratch-in")
    plan = run.plan()
    for part, seconds in plan:
        print(f"{part}: some {seconds:.0f} s", file=sys.stderr)
    print(f"together some {sum(seconds for _, seconds in plan) / 60:.1f} minutes on a quiet machine", file=sys.stderr)
    raise_descriptors()
    lines = machine(arguments.scratch_in)
    try:
        os.mkdir(folder)
        run.measure_keys()
        run.measure_sizes()
    except OSError as error:
        fail(str(error))
    finally:
        # A second Ctrl-C would leave behind what is being removed.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)
        progress("")
    return run.figures(lines)


def raise_descriptors():
    """Room for a descriptor for each connection, as far as this user may have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def read_figures(file):
    try:
        with open(file, encoding="utf-8") as text:
            return json.load(text)
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}")
    except ValueError as error:
        fail(f"{file} holds no figures: {error}")


def show(figures, name, plot):
    """Prints the tables, and writes the plot if a file is named."""
    try:
        report = Report(figures)
        # A backslash ends a line of Markdown without ending the paragraph.
        text = "\n".join([*report.tables(), "\\\n".join(report.notes())])
        picture = report.plot()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        fail(f"{name} holds no figures of this program: {error!r}")
    print(text)
    if plot:
        write(plot, picture)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/release", help="folder of apexkv, apexkv-client and apexkv-chaos")
    parser.add_argument("--scratch-in", default="target", help="where the clusters make their files: on a real disk")
    parser.add_argument("--runs", type=int, default=3, help="runs of each point, 1 to 100")
    parser.add_argument("--seconds", type=float, default=3, help="of each point, 0.1 to 600")
    parser.add_argument("--keys-max", type=int, default=1_000_000, help="of 10000, 1000000 and 10000000 keys, those up to this")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the figures into this file")
    parser.add_argument("--figures", metavar="FILE.json", help="keep every run in this file")
    parser.add_argument("--from", metavar="FILE.json", dest="source", help="measure nothing: show what --figures kept")
    arguments = parser.parse_args()
    if not 1 <= arguments.runs <= 100:
        parser.error("--runs is 1 to 100")
    if not 0.1 <= arguments.seconds <= 600:
        parser.error("--seconds is 0.1 to 600")
    if not KEYS[0] <= arguments.keys_max <= KEYS[-1]:
        parser.error(f"--keys-max is {KEYS[0]} to {KEYS[-1]}")
    if arguments.source and arguments.figures:
        parser.error("--from measures nothing, so there is nothing for --figures to keep: leave one of them out")
    return arguments


def main():
    arguments = parse()
    for file in filter(None, (arguments.plot, arguments.figures)):
        check_output(file)
    if arguments.source:
        show(read_figures(arguments.source), arguments.source, arguments.plot)
        return
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda number, _: sys.exit(128 + number))
    try:
        figures = measure(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    if arguments.figures:
        write(arguments.figures, json.dumps(figures) + "\n")
    show(figures, "the run", arguments.plot)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The standard table: what the cluster in APEXKV_ENDPOINTS does, beside what this machine can do at all, as ratios.

Run by `make bench` around a scratch cluster on this machine. Each point is measured RUNS times, all points in turn rather than one after
the other, so that a slow minute of the machine does not fall on one point alone; the table shows medians. Processor time is that of the
servers' processes, divided by the requests that they have counted; syncs are those of the leader's log.
"""

import argparse
import json
import os
import shutil
import time

from measuring import Cluster, fail, failures, machine, median, milliseconds, number, objects, progress

# The work: operation, connections, depth, and the limit that it is held against.
POINTS = [
    ("set", 1, 1, "raft-path"), ("set", 16, 1, "raft-path"), ("set", 64, 1, "raft-path"), ("set", 256, 1, "raft-path"),
    ("set", 16, 16, "raft-path"),
    ("get", 1, 1, "echo"), ("get", 16, 1, "echo"), ("get", 64, 1, "echo"), ("get", 256, 1, "echo"),
    ("get", 16, 16, "echo"),
]
# Limits that stand for themselves: name, and arguments.
OTHERS = [
    ("one fdatasync", ["sync"]),
    ("one fdatasync, three processes at once", ["sync", "--processes", "3"]),
    ("group commit of one log, 64 threads", ["group", "--connections", "64"]),
]
KEYS = 10_000
VALUE_SIZE = 256
TICKS = os.sysconf("SC_CLK_TCK")


class Servers(Cluster):
    """The cluster, with what its work costs."""

    def counters(self):
        """Processor seconds, requests and log syncs so far; elections and step-downs, and where the leader is."""
        nodes = self.nodes()
        leaders = [node for node in nodes if node["role"] == "leader"]
        if not leaders:
            fail("no node leads")
        total = {"cpu": sum(processor_seconds(node["pid"]) for node in nodes)}
        for name in ("requests_set", "requests_get", "elections_started"):
            total[name] = sum(node["counters"][name] for node in nodes)
        total["log_syncs"] = max(leaders, key=lambda node: node["term"])["counters"]["log_syncs"]
        return total

    def measure(self, operation, connections, depth, seconds):
        """One point, with what it cost the servers."""
        before = self.counters()
        flags = ["--workload", operation, "--connections", connections, "--depth", depth, "--duration", f"{seconds}s", "--warmup", "500ms"]
        flags += ["--keys", KEYS, "--value-size", VALUE_SIZE, "--prefill", "no"]
        result = self.bench(*flags)
        after = self.counters()
        done = {name: after[name] - before[name] for name in before}
        requests = done["requests_set"] + done["requests_get"]
        result["server_cpu_us"] = done["cpu"] * 1e6 / max(requests, 1)
        result["syncs_per_1000"] = 1000 * done["log_syncs"] / done["requests_set"] if operation == "set" else None
        return result

    def prefill(self):
        self.bench("--prefill", "yes", "--keys", KEYS, "--value-size", VALUE_SIZE, "--duration", "500ms", "--warmup", "0s")


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def medians(runs):
    return {name: median(runs, name) for name in
            ("operations_per_second", "p50_us", "p99_us", "server_cpu_us", "syncs_per_1000")}


def limit_arguments(name, connections, depth):
    return [name, "--connections", str(connections), "--depth", str(depth)]


def run_all(cluster, limits, folder, runs, seconds):
    """All points and limits, RUNS times in turn: lists of results by what was measured."""
    found = {}
    steps = [("point", point) for point in POINTS]
    steps += [("limit", tuple(limit_arguments(limit, connections, depth))) for _, connections, depth, limit in POINTS]
    steps += [("limit", tuple(arguments)) for _, arguments in OTHERS]
    began = time.monotonic()
    for number in range(runs):
        for step, (kind, what) in enumerate(steps):
            progress(f"run {number + 1} of {runs}, {step + 1} of {len(steps)}, {time.monotonic() - began:.0f} s")
            if kind == "point":
                result = cluster.measure(*what[:3], seconds)
            else:
                result = objects([limits, *what, "--dir", folder, "--seconds", str(seconds)])[0]
            found.setdefault((kind, what), []).append(result)
    progress("")
    return found


HEADS = ["work", "conns x depth", "ops/s", "p50 / p99 ms", "CPU us/op", "syncs/1,000", "limit ops/s", "p50 / p99 ms", "CPU us/op", "ratio"]


def rows(found):
    table = [HEADS]
    for point in POINTS:
        operation, connections, depth, limit = point
        own = medians(found["point", point])
        bare = medians(found["limit", tuple(limit_arguments(limit, connections, depth))])
        ratio = own["operations_per_second"] / max(bare["operations_per_second"], 1)
        table.append([
            operation.upper(), f"{connections} x {depth}", number(own["operations_per_second"]), milliseconds(own),
            number(own["server_cpu_us"], 1), number(own["syncs_per_1000"]), number(bare["operations_per_second"]), milliseconds(bare),
            number(bare["server_cpu_us"], 1), f"{ratio:.2f}",
        ])
    return table


def aligned(table):
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        cells = [cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))]
        yield "  ".join(cells).rstrip()


def show(found, elections, lines, runs, seconds):
    for line in lines:
        print(line)
    print(f"Servers and load share the machine. 16 B keys, {VALUE_SIZE} B values, {KEYS:,} keys; "
          f"medians of {runs} run{'s' if runs != 1 else ''} of {seconds} s each, in turn.")
    print("The limit of a SET is a bare replicated write path of three processes (group commit, fdatasync, nothing else), that of a GET a")
    print("TCP echo with a thread for each connection (a request there is as large as a SET). CPU is that of all servers together.\n")
    for line in aligned(rows(found)):
        print(line)
    print()
    for name, arguments in OTHERS:
        result = medians(found["limit", tuple(arguments)])
        print(f"{name}: {number(result['operations_per_second'])}/s, p50 / p99 {milliseconds(result)} ms")
    sync = median(found["limit", tuple(OTHERS[1][1])], "p50_us")
    alone = median(found["point", POINTS[0]], "p50_us")
    print(f"p50 of a SET on one connection: {alone / sync:.1f} x that of an fdatasync with three writers on the disk")
    failed = failures(result for (kind, _), results in found.items() if kind == "point" for result in results)
    print(f"elections meanwhile: {elections}; failed requests: {failed or 'none'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of apexkv-client and limits")
    parser.add_argument("--scratch-in", required=True, help="where the limits make their files: on the file system of the cluster")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each point")
    parser.add_argument("--json", action="store_true", help="print every run as one JSON object instead of the table")
    arguments = parser.parse_args()
    if arguments.runs < 1 or arguments.seconds < 1:
        fail("--runs and --seconds are at least 1")
    if "APEXKV_ENDPOINTS" not in os.environ:
        fail("APEXKV_ENDPOINTS names no cluster; run it as `make bench` does")
    lines = machine(arguments.scratch_in)
    cluster = Servers(os.path.join(arguments.bin, "apexkv-client"))
    folder = os.path.join(arguments.scratch_in, f"apexkv-limits-{os.getpid()}")
    os.makedirs(folder)
    try:
        cluster.prefill()
        before = cluster.counters()
        found = run_all(cluster, os.path.join(arguments.bin, "limits"), folder, arguments.runs, arguments.seconds)
        elections = cluster.counters()["elections_started"] - before["elections_started"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        points = [{"kind": kind, "what": what, "runs": results} for (kind, what), results in found.items()]
        print(json.dumps({"machine": lines, "elections": elections, "points": points}))
    else:
        show(found, elections, lines, arguments.runs, arguments.seconds)


if __name__ == "__main__":
    main()

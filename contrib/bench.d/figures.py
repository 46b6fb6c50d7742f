#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The arithmetic of contrib/bench: reads fio's results, times commands,
evicts images, and prints the tables.

A results file has one figure per line, tab separated:
    section  case  round  subject  metric  value
Ratios are taken within a round, between neighbours in time; the median of
the rounds counts, and the lowest and highest show how much it can be
trusted. A goal is said to be reached or missed, and nothing else follows
from it: the exit status does not depend on speed.
"""
import json
import os
import select
import socket
import sys
import time
from collections import defaultdict
from statistics import median

ROWS = {
    "4k-write-qd32": "4K random write QD32",
    "4k-write-qd1": "4K random write QD1",
    "64k-write-qd16": "64K random write QD16",
    "1m-write-qd8": "1M random write QD8",
    "4k-read-qd32": "4K random read QD32",
    "4k-read-qd1": "4K random read QD1",
    "4k-write-sync-qd1": "4K write+fdatasync QD1",
}
GOALS_RAW = {
    "4k-write-qd32": 0.85,
    "4k-write-qd1": 0.85,
    "64k-write-qd16": 0.85,
    "1m-write-qd8": 0.90,
    "4k-read-qd32": 0.55,
    "4k-read-qd1": 0.80,
}
GOALS_QSD = {
    "4k-write-qd32": 1.3,
    "64k-write-qd16": 1.1,
    "1m-write-qd8": 1.5,
    "4k-read-qd32": 1.1,
}
# A read of a hole costs the raw file no I/O at all: nothing to hold up to.
GOALS_FRESH = {row: goal for row, goal in GOALS_RAW.items()
               if "read" not in row}
GOALS_DRAINING = {row: 0.5 for row in GOALS_RAW}
GOAL_GUEST = 1.10


class Results:
    """All figures of a file: get() gives {round: value} of one series."""

    def __init__(self, path):
        self.series = defaultdict(dict)
        with open(path, encoding="utf-8") as f:
            for line in f:
                section, case, turn, subject, metric, value = \
                    line.rstrip("\n").split("\t")
                self.series[section, case, subject, metric][int(turn)] = value

    def get(self, section, case, subject, metric):
        found = self.series.get((section, case, subject, metric), {})
        return {turn: float(value) for turn, value in found.items()}

    def cases(self, section):
        seen = {key[1]: None for key in self.series if key[0] == section}
        return list(seen)

    def subjects(self, section):
        seen = {key[2]: None for key in self.series if key[0] == section}
        return [s for s in ("raw", "weir", "weir-uring", "qsd", "nbdfuse")
                if s in seen]

    def head(self):
        return {key[2]: value[0] for key, value in self.series.items()
                if key[0] == "head"}


def ratios(over, under):
    return [over[t] / under[t] for t in sorted(over)
            if t in under and under[t] > 0]


def short(number):
    """Four characters or so for a figure of any size."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.{1 if number < 100 * limit else 0}f}" \
                + unit
    return f"{number:.0f}"


def verdict(value, goal, most=False):
    reached = value <= goal if most else value >= goal
    return f"goal {goal:.2f} " + ("reached" if reached else "missed")


def spread(values):
    return f"{median(values):5.2f}  ({min(values):.2f}-{max(values):.2f})"


def title(text):
    print(f"\n{text}\n{'-' * len(text)}")


def table_speed(results, section, heading, goals):
    rows = [row for row in ROWS if row in results.cases(section)]
    if not rows:
        return
    subjects = results.subjects(section)
    title(heading)
    print(f"{'IOPS (1M: MB/s)':24}"
          + "".join(f"{s:>11}" for s in subjects))
    for row in rows:
        metric = "mbps" if row.startswith("1m") else "iops"
        cells = ""
        for subject in subjects:
            values = results.get(section, row, subject, metric)
            cells += f"{short(median(values.values())):>11}" if values \
                else f"{'-':>11}"
        print(f"{ROWS[row]:24}{cells}")
    pairs = [("weir", *goal) for goal in goals]
    pairs += [("weir-uring", *goal) for goal in goals]
    for ours, peer, peer_goals in pairs + [("weir-uring", "weir", {})]:
        if peer in subjects and ours in subjects:
            table_ratios(results, section, rows, ours, peer, peer_goals)


def table_ratios(results, section, rows, ours, peer, goals):
    print(f"\n{ours} / {peer}".ljust(26) + "median (lowest-highest)")
    for row in rows:
        both = ratios(results.get(section, row, ours, "iops"),
                      results.get(section, row, peer, "iops"))
        if not both:
            continue
        said = verdict(median(both), goals[row]) if row in goals else ""
        print(f"{ROWS[row]:24} {spread(both):24} {said}".rstrip())


def report_mount(results):
    table_speed(results, "written", "Mount: a disk written before",
                (("raw", GOALS_RAW), ("qsd", GOALS_QSD), ("nbdfuse", {})))
    table_speed(results, "fresh", "Mount: a disk never written before",
                (("raw", GOALS_FRESH), ("qsd", GOALS_QSD), ("nbdfuse", {})))
    table_speed(results, "draining",
                "Mount: while a drain goes on at full speed",
                (("raw", GOALS_DRAINING),))
    ended = [left for key, series in results.series.items()
             if key[0] == "draining" and key[3] == "left"
             for left in series.values()]
    if ended:
        over = sum(1 for left in ended if float(left) == 0)
        print(f"(the drain was over before fio was in {over} of "
              f"{len(ended)} runs)")
    if results.cases("written") or results.cases("fresh"):
        print("(nbdfuse: nbdkit's file plugin writes to the page cache, "
              "the others do not)")


def guest_line(results, case, against):
    bad = results.get("guest", case, "bad", "p99us")
    base = results.get("guest", case, against, "p99us")
    pairs = ratios(bad, base) or [float("nan")]
    value = median(bad.values()) / median(base.values())
    return (f"  to {against:12}{median(base.values()):7.0f} us "
            f"{value:6.2f}  ({min(pairs):.2f}-{max(pairs):.2f})   "
            + verdict(value, GOAL_GUEST, most=True))


def report_guest(results):
    cases = [c for c in results.cases("guest") if "-qd" in c
             and all(results.get("guest", c, who, "p99us")
                     for who in ("bad", "paused", "none"))]
    if not cases:
        return
    title("Guest: p99 of 4K write latency while the target misbehaves")
    print("ratio of the medians, and lowest-highest of the single pairs")
    for case in cases:
        state, depth = case.rsplit("-qd", 1)
        bad = results.get("guest", case, "bad", "p99us")
        rounds = f"({len(bad)} rounds)"
        print(f"{state + ', QD' + depth:17}{median(bad.values()):7.0f} us "
              f"{rounds:>12}")
        print(guest_line(results, case, "paused"))
        print(guest_line(results, case, "none"))
    slowest = {}
    for key, series in results.series.items():
        if key[0] == "guest" and key[3] == "seconds":
            worst = max(float(v) for v in series.values())
            slowest[key[2]] = max(slowest.get(key[2], 0), worst)
    if slowest:
        print("slowest answer meanwhile (goal: below 1 s): " + ", ".join(
            f"{name} {seconds:.2f}" for name, seconds in slowest.items()))


def report_bitmaps(results):
    if not results.cases("bitmaps"):
        return
    title("Named bitmaps: ten that record / none, a hot set")
    for row in results.cases("bitmaps"):
        both = ratios(results.get("bitmaps", row, "ten", "iops"),
                      results.get("bitmaps", row, "none", "iops"))
        writes = sum(sum(results.get("bitmaps", row, who, "metadata").values())
                     for who in ("ten", "none"))
        print(f"{ROWS[row]:24} {spread(both):24} {writes:.0f} metadata writes")


def report_cuts_over(results, section, hot):
    rows = [row for row in ROWS if row in results.cases(section)]
    if rows:
        title(f"Cuts: one each second, a near target, {hot}")
    for row in rows:
        cut = results.get(section, row, "cut", "iops")
        calm = ratios(cut, results.get(section, row, "paused", "iops"))
        none = ratios(cut, results.get(section, row, "none", "iops"))
        aside = results.get(section, row, "cut", "aside")
        writes = results.get(section, row, "cut", "writes")
        paid = median(aside[t] / writes[t] for t in aside)
        whole = median(results.get(section, row, "cut", "whole").values())
        print(f"{ROWS[row]:24} to no cuts {spread(calm):22} "
              + verdict(median(calm), 0.8)
              + f"; {100 * paid:.1f} % of the writes paid")
        print(f"{'':24} to policy none {spread(none)}; {whole:.0f} cuts whole")


def report_cuts(results):
    report_cuts_over(results, "cuts-hot", "a hot set: a quarter of the disk")
    report_cuts_over(results, "cuts-all", "all of the disk hot")
    if results.cases("first"):
        title("Cuts: p50 of a 4K write into a cluster that a cut owes")
    for case in results.cases("first"):
        plain = results.get("first", case, "plain", "p50us")
        paid = ratios(results.get("first", case, "first", "aside"),
                      results.get("first", case, "first", "writes"))
        for who, goal in (("first", 3.0), ("second", 1.1)):
            both = ratios(results.get("first", case, who, "p50us"), plain)
            print(f"{case.split('-')[1].upper() + ', ' + who:24} "
                  f"{spread(both):24} of {median(plain.values()):.0f} us  "
                  + verdict(median(both), goal, most=True))
        print(f"{'':24} {100 * median(paid):.0f} % of the first ones paid")


def report_snapshots(results):
    if results.cases("snap"):
        title("Snapshots: p50 of a 4K write into a cluster that one needs")
    for case in results.cases("snap"):
        plain = results.get("snap", case, "plain", "p50us")
        kept = ratios(results.get("snap", case, "first", "kept"),
                      results.get("snap", case, "first", "writes"))
        for who, goal in (("first", 8.0), ("second", 1.1)):
            both = ratios(results.get("snap", case, who, "p50us"), plain)
            print(f"{case.split('-')[1].upper() + ', ' + who:24} "
                  f"{spread(both):24} of {median(plain.values()):.0f} us  "
                  + verdict(median(both), goal, most=True))
        print(f"{'':24} {100 * median(kept):.0f} % of the first ones paid")
    if results.cases("keeping"):
        title("Snapshots: reads of the disk with many kept, to none")
    for case in results.cases("keeping"):
        both = ratios(results.get("keeping", case, "many", "iops"),
                      results.get("keeping", case, "none", "iops"))
        print(f"{ROWS[case]:24} {spread(both):24} "
              + verdict(median(both), 0.9))
    if results.cases("making"):
        title("Snapshots: time to make one while a guest writes")
    for case in results.cases("making"):
        times = sorted(results.get("making", case, "weir", "us").values())
        p99 = times[min(len(times) - 1, len(times) * 99 // 100)]
        print(f"disk of {case:16} p50 {median(times) / 1000:.1f} ms, p99 of "
              f"{len(times)}: {p99 / 1000:.1f} ms  "
              + verdict(p99 / 1000, 10.0, most=True))


def drain_speeds(results, case, tool):
    seconds = results.get("drain", case, tool, "seconds")
    size = results.get("drain", case, tool, "bytes")
    return {t: size[t] / seconds[t] / 1e6 for t in seconds}


def report_drain_case(results, case):
    gib = 1 << 30
    for tool in ("weir", "nbdcopy", "qemu-img"):
        speeds = drain_speeds(results, case, tool)
        if not speeds:
            continue
        size = results.get("drain", case, tool, "bytes")
        cpu = results.get("drain", case, tool, "cpu")
        rss = results.get("drain", case, tool, "rss")
        per_gib = median(cpu[t] / size[t] * gib for t in cpu)
        print(f"{case + ', ' + tool:24}{median(speeds.values()):10.0f} MB/s"
              f"{per_gib:10.2f} CPU s/GiB"
              f"{max(rss.values()) / 1024:8.0f} MiB RSS")
    goals = {"near": {"nbdcopy": 0.9},
             "wdelay50ms": {"nbdcopy": 3.0, "qemu-img": 1.0}}[case]
    weir = drain_speeds(results, case, "weir")
    for tool, goal in goals.items():
        both = ratios(weir, drain_speeds(results, case, tool))
        if both:
            print(f"  weir / {tool:15} {spread(both):24} "
                  + verdict(median(both), goal))


def report_drain(results):
    if not results.cases("drain"):
        return
    title("Drain: wall time of the whole command, image not in the cache")
    for case in results.cases("drain"):
        report_drain_case(results, case)


def report(path):
    results = Results(path)
    for name, text in results.head().items():
        print(f"{name:8}{text}")
    report_mount(results)
    report_guest(results)
    report_bitmaps(results)
    report_cuts(results)
    report_snapshots(results)
    report_drain(results)


def fio(path, *key):
    """One run: speed, and percentiles of the latency."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    if job["error"] != 0:
        sys.exit(f"fio: error {job['error']}")
    side = max((job["read"], job["write"]), key=lambda s: s["total_ios"])
    if side["total_ios"] == 0:
        sys.exit("fio: nothing was done")
    percentile = side["clat_ns"]["percentile"]
    for metric, value in (("iops", side["iops"]),
                          ("mbps", side["bw_bytes"] / 1e6),
                          ("writes", side["total_ios"]),
                          ("p50us", percentile["50.000000"] / 1000),
                          ("p99us", percentile["99.000000"] / 1000)):
        print(*key, metric, f"{value:.3f}", sep="\t")


def timed(path, *command):
    """Runs a command: wall seconds, CPU seconds, peak RSS in KiB."""
    began = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ)
    # The kernel's ru_maxrss starts with what this interpreter had, so the
    # high-water mark of the command itself is read while it runs.
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    peak = high_water(pid)
    while not ended.poll(50):
        peak = max(peak, high_water(pid))
    wall = time.monotonic() - began
    _, status, usage = os.wait4(pid, 0)
    with open(path, "w", encoding="utf-8") as f:
        print(f"{wall:.4f}", f"{usage.ru_utime + usage.ru_stime:.4f}",
              peak, file=f)
    sys.exit(os.waitstatus_to_exitcode(status))


def high_water(pid):
    """Peak RSS of a process in KiB, 0 when it has just ended."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def evict(path):
    """Nothing of the image stays in the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def control(path, letter):
    """Tells nbdkit's pause filter to pause (p) or to resume (r)."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(path)
        peer.sendall(letter.encode())
        if peer.recv(1) != letter.upper().encode():
            sys.exit("nbdkit does not obey")


def making(path, count, case):
    """Makes snapshots over the control socket, and times each."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(60)
        peer.connect(path)
        lines = peer.makefile("r", encoding="utf-8")
        lines.readline()

        def call(command):
            peer.sendall(json.dumps({"execute": command}).encode() + b"\n")
            while True:
                answer = json.loads(lines.readline())
                if "error" in answer:
                    sys.exit(answer["error"]["desc"])
                if "return" in answer:
                    return

        call("qmp_capabilities")
        for turn in range(int(count)):
            began = time.monotonic()
            call("weir-snapshot-create")
            spent = time.monotonic() - began
            print("making", case, turn, "weir", "us", f"{spent * 1e6:.0f}",
                  sep="\t")


def total(name):
    """The sum of a field over the disks of a reply on stdin."""
    print(sum(disk[name] for disk in json.load(sys.stdin)["disks"]))


def field(name):
    """One field of the status.json on stdin."""
    print(json.load(sys.stdin)[name])


def minus(later, earlier):
    print(f"{float(later) - float(earlier):.3f}")


if __name__ == "__main__":
    {f.__name__: f for f in (report, fio, timed, evict, control, field,
                             making, total, minus)}[sys.argv[1]](*sys.argv[2:])

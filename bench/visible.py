"""When does a reader see a message's row?

visible.py CONNINFO SUBSCRIPTION MESSAGES
    Reads the stored positions again and again in new snapshots until they have moved by MESSAGES,
    and prints "time_ms part next_offset" whenever one has moved.  A position is stored in the
    transaction of its rows, so a snapshot that shows it shows them.

visible.py --report ARRIVALS VISIBLE
    ARRIVALS: "part offset timestamp_ms arrival_ms" of each message, by bench/noop_consumer.c.
    Prints percentiles of arrival and of visibility, both since the message's own timestamp, without
    the first WARM_UP_MS, in which the producer's virtual machine still compiles itself.
"""
import bisect
import sys
import time

import psycopg

WARM_UP_MS = 3000


def watch(conninfo, name, messages):
    connection = psycopg.connect(conninfo, autocommit=True)
    query = ("SELECT part, next_offset FROM kappa.position p JOIN kappa.subscription s ON s.id = p.subscription "
             "WHERE s.name = %s")
    seen = dict(connection.execute(query, (name,)).fetchall())
    start = sum(seen.values())
    while sum(seen.values()) < start + messages:
        now = dict(connection.execute(query, (name,), prepare=True).fetchall())
        at = time.time() * 1000
        for part, offset in now.items():
            if seen.get(part) != offset:
                print(f"{at:.3f} {part} {offset}")
        seen = now
        time.sleep(0.0005)          # the reader's pace; what it adds is counted in


def percentiles(name, values):
    values.sort()
    at = {p: values[min(len(values) - 1, int(len(values) * p / 100))] for p in (50, 90, 99, 99.9)}
    print(f"  {name:24}" + "".join(f"  p{p} {v:8.1f}" for p, v in at.items()) + f"  max {values[-1]:8.1f}")


def report(arrivals, visible):
    moves = {}
    with open(visible, encoding="ascii") as lines:
        for line in lines:
            at, part, offset = line.split()
            offsets, times = moves.setdefault(int(part), ([], []))
            offsets.append(int(offset))
            times.append(float(at))
    messages = []
    with open(arrivals, encoding="ascii") as lines:
        for line in lines:
            words = line.split()
            if words[0] != "messages":
                messages.append((int(words[0]), int(words[1]), float(words[2]), float(words[3])))
    start = min(stamp for _, _, stamp, _ in messages) + WARM_UP_MS
    arrived, seen = [], []
    for part, offset, stamp, arrival in messages:
        if stamp >= start:
            offsets, times = moves[part]
            arrived.append(arrival - stamp)
            seen.append(times[bisect.bisect_right(offsets, offset)] - stamp)
    percentiles("no-op consumer has it", arrived)
    percentiles("a reader sees the row", seen)


if __name__ == "__main__":
    if sys.argv[1] == "--report":
        report(sys.argv[2], sys.argv[3])
    else:
        watch(sys.argv[1], sys.argv[2], int(sys.argv[3]))

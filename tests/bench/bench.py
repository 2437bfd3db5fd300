#!/usr/bin/python3
"""Measures postchute beside other mail senders on this machine and prints one report; nothing here passes or fails.
tests/bench/README.md says what the figures mean and how the others are set up.

    tests/bench/run                        short form, meant for five minutes at most: one round, 2 KiB, one recipient
    tests/bench/run --long                 three rounds; 20 KiB, ten recipients, a slow network, a receiver that defers,
                                           1,000 to 1,000,000 messages queued
    tests/bench/run --only postchute,exim  some of them
"""
import argparse
import json
import os
import pathlib
import select
import shutil
import statistics
import subprocess
import sys
import threading
import time

import subjects

TOOLS = subjects.TOOLS
SCRATCH = pathlib.Path(os.environ.get("BENCH_SCRATCH", "/tmp"))
CONNECTIONS = (1, 16, 64, 256)
BRIEF_CONNECTIONS = (1, 64)  # of the others in the short form
WARM = 100


def tool(*args, seconds=180):
    is_slowed = subjects.SYNC_US in os.environ and args[1] in ("sync", "bare")
    env = {**os.environ, "LD_PRELOAD": str(subjects.COUNTER)} if is_slowed else None
    out = subprocess.run([str(TOOLS / args[0])] + [str(a) for a in args[1:]], check=True, capture_output=True, text=True, timeout=seconds, env=env).stdout
    return json.loads(out)


def raw_signing(algorithm="rsa", milliseconds=700):
    return tool("tool_limits", "sign", os.cpu_count(), milliseconds, algorithm)


def raw_syncs(milliseconds=700):
    """Synced appends of 4 KiB to the disk of the stores, one after the other."""
    return tool("tool_limits", "sync", SCRATCH, milliseconds)


def bare_accepts(rate, milliseconds=3000):
    """What no accept can do without (three threads that wake each other, a synced write), `rate` a second."""
    return tool("tool_limits", "bare", SCRATCH, milliseconds, rate)


def loopback_smtp(messages=20000):
    """What the generator and the receiver do without anything between them."""
    sink = Sink()
    try:
        return tool("tool_smtp", "--to", f"127.0.0.1:{sink.port}", "--connections", 20, "--count", messages)
    finally:
        sink.stop()


def group_commit(messages=20000):
    """Accepts of the store alone, 64 callers: SQLite with a sync for each transaction."""
    folder = SCRATCH / "group-commit"
    out = subprocess.run([str(TOOLS / "tool_store"), folder, str(messages), "2", "32", "1", "2800", "1"], check=True, capture_output=True, text=True, timeout=180)
    shutil.rmtree(folder)
    words = next(line for line in out.stdout.splitlines() if line.startswith("accept")).split()
    return {"per_second": float(words[1])}


LIMITS = {
    "RSA-2048 signatures, all cores": raw_signing,
    "Ed25519 signatures, all cores": lambda: raw_signing("ed25519"),
    "appends of 4 KiB, each synced": raw_syncs,
    "the store alone, 64 callers": group_commit,
    "SMTP from generator to receiver, 20 sessions": loopback_smtp,
}


def stolen():
    """In ticks since the machine began: (what the hypervisor gave to others while we had work, all that was worked or stolen)."""
    ticks = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _io_wait, irq, soft_irq, steal = ticks
    return steal, user + nice + system + irq + soft_irq + steal


def stolen_since(before):
    """Per cent of the time that was wanted."""
    (steal, wanted), (steal_now, wanted_now) = before, stolen()
    return 100 * (steal_now - steal) / max(wanted_now - wanted, 1)


def load(s, connections, count, **options):
    program = "tool_load" if s.speaks == "http" else "tool_smtp"
    args = ["--to", f"127.0.0.1:{s.port}", "--connections", connections, "--count", count]
    if s.speaks == "http":
        args += ["--key", s.api_key]
    for name, value in options.items():
        args += ["--" + name, value]
    return tool(program, *args, seconds=180 + count // 500)


class Sink:
    def __init__(self, **options):
        args = [str(a) for name, value in options.items() for a in ("--" + name.replace("_", "-"), value)]
        self.process = subprocess.Popen([str(TOOLS / "tool_sink")] + args, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split()[1])

    def wait(self):
        """The monotonic time at which the next count of --tell was reached."""
        if not select.select([self.process.stdout], [], [], 120)[0]:
            raise RuntimeError("not everything arrived within 120 s")
        line = self.process.stdout.readline().split()
        if not line or line[0] != "reached":
            raise RuntimeError("the sink ended")
        return int(line[2]) / 1e6

    def stop(self):
        """What it counted."""
        self.process.terminate()
        out = self.process.communicate(timeout=30)[0]
        return json.loads(out.splitlines()[-1])


class Watch:
    """The largest memory seen while it runs."""

    def __init__(self, s, every=0.25):
        self.s, self.every, self.anonymous, self.resident = s, every, 0, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        while not self.ended.wait(self.every):
            a, r = self.s.memory()
            self.anonymous, self.resident = max(self.anonymous, a), max(self.resident, r)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


class Bench:
    def __init__(self, args):
        self.args, self.number = args, 0
        self.keys = {}
        for name, how in (("rsa", ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]), ("ed25519", ["ED25519"])):
            path = SCRATCH / f"{name}.pem"
            subprocess.run(["openssl", "genpkey", "-algorithm", *how, "-out", path], check=True, stderr=subprocess.DEVNULL)
            path.chmod(0o644 if os.getuid() == 0 and not args.alone else 0o600)
            self.keys[name] = path
        self.certificate = SCRATCH / "receiver.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=sink.test",
                        "-keyout", self.certificate, "-out", SCRATCH / "receiver.crt"], check=True, stderr=subprocess.DEVNULL)  # fmt: skip
        with open(self.certificate, "a") as f:
            f.write((SCRATCH / "receiver.crt").read_text())

    def make(self, kind, sink, algorithm, **options):
        self.number += 1
        key = [self.keys["rsa"], self.keys["ed25519"]] if algorithm == "both" else self.keys.get(algorithm)
        if kind is subjects.Postchute and key:  # its own copy: it refuses a key that others can read
            copies = []
            for k in key if isinstance(key, list) else [key]:
                copy = SCRATCH / f"own-{k.name}"
                copy.write_bytes(k.read_bytes())
                copy.chmod(0o600)
                copies.append(copy)
            key = copies
        return kind(SCRATCH / f"{kind.name}-{self.number}", sink.port, key=key, algorithm=algorithm,
                    binary=self.args.binary, **options)

    def peer_messages(self, kind):
        return self.args.peer_messages or (self.args.messages if self.args.long else kind.brief)

    def accept(self, kind):
        """Durable accepts per second while nothing leaves: the receiver takes connections and is silent."""
        out = {}
        brief = not self.args.long and kind is not subjects.Postchute
        sink = Sink(mute=1)
        try:
            for connections in BRIEF_CONNECTIONS if brief else CONNECTIONS:
                s = self.make(kind, sink, "rsa", hold=True).start()
                try:
                    load(s, 1, 20, prefix="warm")
                    count = self.args.messages if connections >= 64 else max(300, self.args.messages // 4)
                    if brief:
                        count = min(count, self.args.peer_messages or 2000 if connections >= 64 else 500)
                    elif kind is not subjects.Postchute:
                        count = min(count, self.peer_messages(kind) if connections >= 64 else 50 * connections)
                    io = s.io()
                    beside = kind is subjects.Postchute and connections == 1  # what a disk can do changes from second to second
                    syncs = [raw_syncs()["per_second"]] if beside else []
                    got = load(s, connections, count)
                    if beside:
                        got["raw_syncs"] = statistics.mean(syncs + [raw_syncs()["per_second"]])
                    got["anonymous_mib"] = s.memory()[0]
                    if io[0] is not None:
                        got["syncs"] = (s.io()[0] - io[0]) / count
                        got["bytes"] = (s.io()[1] - io[1]) / count
                    out[connections] = got
                finally:
                    s.stop()
            s = self.make(kind, sink, "rsa", hold=True).start()
            try:
                load(s, 4, 20, prefix="warm")
                for rate, seconds in ((100, 3), (1000, 1)) if brief else ((100, 6), (1000, 3)):
                    bare_ms = 3000 if self.args.long or rate == 100 else 1500
                    bare = [bare_accepts(rate, bare_ms)] if kind is subjects.Postchute else []
                    out[f"rate {rate}"] = load(s, 32, rate * seconds, rate=rate, seconds=2 * seconds, prefix=f"r{rate}")
                    if bare:
                        bare.append(bare_accepts(rate, bare_ms))
                        for part in ("p50_ms", "p99_ms"):
                            out[f"rate {rate}"]["bare_" + part] = statistics.mean(b[part] for b in bare)
            finally:
                s.stop()
        finally:
            sink.stop()
        return out

    def end_to_end(self, kind, algorithm, bytes=2048, recipients=1, messages=None, tls=False, **sink_options):
        """From the first request to the receiver's 250 for the last recipient, 64 connections in, 20 sessions out."""
        messages = messages or self.args.messages
        if kind is not subjects.Postchute:
            messages = min(messages, self.peer_messages(kind), kind.most)
        if tls:
            sink_options["tls"] = self.certificate
        sink = Sink(tell=f"{WARM},{WARM + messages * recipients}", **sink_options)
        raw_as = {"none": None, "ed25519": "ed25519"}.get(algorithm, "rsa")
        raw = [raw_signing(raw_as)] if raw_as else []
        s = self.make(kind, sink, algorithm, tls=tls).start()
        try:
            load(s, 8, WARM, prefix="warm")
            sink.wait()
            time.sleep(0.3)
            cpu, io = s.cpu_seconds(), s.io()
            with Watch(s) as memory:
                start = time.monotonic()
                accepted = load(s, 64, messages, bytes=bytes, recipients=recipients)
                seconds = sink.wait() - start
            if kind is subjects.Postchute:
                self.settled(s, WARM + messages * recipients)
            else:
                time.sleep(0.5)
            out = {
                "per_second": messages / seconds, "accepted": accepted, "cpu_ms": (s.cpu_seconds() - cpu) * 1000 / messages,
                "anonymous_mib": memory.anonymous, "resident_mib": memory.resident,
            }  # fmt: skip
            if io[0] is not None:
                out["syncs"], out["bytes"] = (s.io()[0] - io[0]) / messages, (s.io()[1] - io[1]) / messages
        finally:
            s.stop()
            counts = sink.stop()
        if tls and counts["encrypted"] < counts["messages"]:
            raise RuntimeError(f"{counts['messages'] - counts['encrypted']} of {counts['messages']} messages came without TLS")
        if raw_as:
            raw.append(raw_signing(raw_as))
            out["raw_signing"] = statistics.mean(r["per_second"] for r in raw)
            out["raw_signing_cpu_us"] = statistics.mean(r["cpu_us"] for r in raw)
        return out

    def beside(self):
        """Small accepts, 200 a second, alone and beside four of 8 MB a second."""
        out = {}
        sink = Sink(mute=1)
        s = self.make(subjects.Postchute, sink, "rsa", hold=True).start()
        try:
            load(s, 4, 20, prefix="warm")
            seconds = 10 if self.args.long else 3
            out["alone"] = load(s, 16, 200 * seconds, rate=200, seconds=seconds, prefix="a")
            large = threading.Thread(target=lambda: out.update(large=load(s, 4, 4 * seconds, bytes=8 << 20, rate=4, seconds=seconds + 2, prefix="l")))
            large.start()
            out["beside"] = load(s, 16, 200 * seconds, rate=200, seconds=seconds, prefix="b")
            large.join()
            return out
        finally:
            s.stop()
            sink.stop()

    @staticmethod
    def settled(s, count):
        deadline = time.monotonic() + 60
        while s.metrics().get('postchute_outbox_recipients{state="delivered"}', 0) < count:
            if time.monotonic() > deadline:
                raise RuntimeError("not everything was settled within 60 s")
            time.sleep(0.1)

    def queued(self, count):
        """postchute with `count` messages waiting: accept rate, memory, time until ready after a start."""
        sink = Sink(mute=1)
        s = self.make(subjects.Postchute, sink, "rsa").start()
        try:
            with Watch(s) as memory:
                load(s, 64, count, prefix="fill")
                time.sleep(3)  # what was filled is copied into the file
                got = load(s, 64, 20000, prefix="then")  # a second or so: checkpoints are in it
                time.sleep(1)
            s.stop(patience=5)
            start = time.monotonic()
            s.start()
            out = {"per_second": got["per_second"], "ready_s": time.monotonic() - start, "anonymous_mib": memory.anonymous,
                   "resident_mib": memory.resident}
            time.sleep(2)
            out["anonymous_restarted_mib"], out["resident_restarted_mib"] = s.memory()
            return out
        finally:
            s.stop()
            sink.stop()


# ---- the report ----


def middle(values, digits=0):
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    text = f"{statistics.median(values):,.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


def table(title, columns, rows):
    print(f"\n{title}")
    width = [max(len(str(r[i])) for r in [columns] + rows) for i in range(len(columns))]
    for row in [columns] + rows:
        print("  " + "  ".join(str(v).ljust(w) if i == 0 else str(v).rjust(w) for i, (v, w) in enumerate(zip(row, width))))


def report(results, limits, steal):
    print(f"{os.cpu_count()} cores; load generator and receiver on the same machine; median (least..most) of the rounds")
    table("what the machine can do", ["", "per second"], [[name, middle(values)] for name, values in limits.items()])
    print(f"  of the CPU time that was wanted the hypervisor gave to others: {middle(steal, 1)} per cent")
    names = {}
    for key in results:
        if key[0] == "accept":
            names.setdefault(key[1])
    rows, late = [], []
    for name in names:
        rounds = results["accept", name]
        at = lambda c, f: [r.get(c, {}).get(f) for r in rounds]  # noqa: E731
        rows.append([name] + [middle(at(c, "per_second")) for c in CONNECTIONS] + [middle(at(64, "syncs"), 3), middle(at(64, "bytes"))])
        late.append([name] + [f"{middle(at(c, 'p50_ms'), 1)} / {middle(at(c, 'p99_ms'), 1)}" for c in ("rate 100", "rate 1000", 64)])
    if "postchute" in names:
        at = lambda c, f: [r[c].get(f) for r in results["accept", "postchute"]]  # noqa: E731
        late.append(["a bare accept: three threads, one synced write"]
                    + [f"{middle(at(c, 'bare_p50_ms'), 1)} / {middle(at(c, 'bare_p99_ms'), 1)}" for c in ("rate 100", "rate 1000")] + ["-"])  # fmt: skip
    if rows:
        table("durable accepts per second", ["connections"] + list(CONNECTIONS) + ["syncs/msg", "bytes/msg"], rows)
        table("acknowledgement, ms, p50 / p99", ["", "100/s", "1,000/s", "64 connections"], late)
    if ("beside",) in results:
        rounds = results["beside",]
        at = lambda c, f: middle([r[c].get(f) for r in rounds], 1)  # noqa: E731
        rows = [[name, at(c, "p50_ms"), at(c, "p99_ms"), at(c, "max_ms")]
                for name, c in (("200/s alone", "alone"), ("200/s beside four of 8 MB a second", "beside"), ("those", "large"))]  # fmt: skip
        table("acknowledgement of postchute, ms", ["", "p50", "p99", "most"], rows)
    shapes = {}
    for key in results:
        if key[0] == "end to end":
            shapes.setdefault(key[2:], []).append(key)
    for (algorithm, shape), keys in shapes.items():
        rows = []
        for key in keys:
            rounds = results[key]
            get = lambda f: [r.get(f) for r in rounds]  # noqa: E731
            share = [r["per_second"] / r["raw_signing"] for r in rounds] if algorithm != "none" else []
            rows.append([key[1], middle(get("per_second")), middle(share, 2), middle(get("cpu_ms"), 2), middle(get("anonymous_mib")),
                         middle(get("syncs"), 2), middle(get("bytes"))])  # fmt: skip
        table(f"end to end, DKIM {algorithm}, {shape}",
              ["", "delivered/s", "of raw signing", "CPU ms/msg", "anon MiB", "syncs/msg", "bytes/msg"], rows)  # fmt: skip
    rows = []
    for key, rounds in results.items():
        if key[0] == "queued":
            get = lambda f: [r.get(f) for r in rounds]  # noqa: E731
            rows.append([f"{key[1]:,}", middle(get("per_second")), middle(get("anonymous_mib"), 1), middle(get("resident_mib")),
                         middle(get("ready_s"), 2), middle(get("resident_restarted_mib"))])  # fmt: skip
    if rows:
        table("postchute with messages queued", ["queued", "accepts/s", "anon MiB", "resident", "ready after s", "resident then"], rows)


def goals(results):
    """What postchute wants to reach: measured, wanted. Ratios of medians of the same rounds."""

    def of(key, *path):
        values = []
        for r in results.get(key, []):
            for name in path:
                r = r.get(name, {}) if isinstance(r, dict) else {}
            if isinstance(r, (int, float)):
                values.append(r)
        return statistics.median(values) if values else None

    def end(name, algorithm, field="per_second"):
        return of(("end to end", name, algorithm, "2 KiB"), field)

    ours, ed = end("postchute", "rsa"), end("postchute", "ed25519")
    own = end("node-redis", "rsa"), end("node-sqlite", "rsa")
    best_own = max((v for v in own if v), default=None)
    def accepts(name, connections, field="per_second"):
        return of(("accept", name), connections, field)

    rows = []

    def goal(text, measured, wanted, least=True):
        if measured is not None:
            met = measured >= wanted if least else measured <= wanted
            rows.append([text, f"{measured:,.3g}", f"{'>=' if least else '<='} {wanted:g}", "met" if met else "missed"])

    def ratio(a, b):
        return a / b if a and b else None

    def mb(mib):
        return mib * 1.048576 if mib else None

    goal("RSA end to end / raw signing", ratio(ours, end("postchute", "rsa", "raw_signing")), 0.6)
    goal("RSA end to end / best of the self-made", ratio(ours, best_own), 5)
    goal("RSA end to end / Haraka", ratio(ours, end("haraka", "rsa")), 6)
    goal("RSA end to end / Postfix and OpenDKIM", ratio(ours, end("postfix", "rsa")), 9)
    goal("RSA end to end / Exim", ratio(ours, end("exim", "rsa")), 13)
    goal("Ed25519 end to end / Postfix without DKIM", ratio(ed, end("postfix", "none")), 8)
    goal("accepts, 64 connections / Postfix", ratio(accepts("postchute", 64), accepts("postfix", 64)), 7)
    goal("accepts, 64 connections / Redis queue", ratio(accepts("postchute", 64), accepts("node-redis", 64)), 4.5)
    goal("accepts, 1 connection / raw syncs", ratio(accepts("postchute", 1), accepts("postchute", 1, "raw_syncs")), 0.4)
    goal("acknowledgement p99 at 100/s, ms", accepts("postchute", "rate 100", "p99_ms"), 2, False)
    goal("acknowledgement p99 at 1,000/s, ms", accepts("postchute", "rate 1000", "p99_ms"), 4, False)
    goal("acknowledgement p99 at saturation, ms", accepts("postchute", 64, "p99_ms"), 15, False)
    goal("CPU of Postfix and OpenDKIM / ours", ratio(end("postfix", "rsa", "cpu_ms"), end("postchute", "rsa", "cpu_ms")), 10)
    goal("anonymous memory, MB", mb(end("postchute", "rsa", "anonymous_mib")), 32, False)
    goal("syncs a message under load", end("postchute", "rsa", "syncs"), 0.1, False)
    few, many = of(("queued", 1000), "per_second"), of(("queued", 100000), "per_second")
    goal("accepts, 100,000 queued / 1,000 queued", ratio(many, few), 0.9)
    few, many = of(("queued", 1000), "anonymous_mib"), of(("queued", 100000), "anonymous_mib")
    goal("more memory with 100,000 queued, MB", mb(many - few) if few and many else None, 5, False)
    goal("resident with 1,000,000 queued, MB", mb(of(("queued", 1000000), "resident_mib")), 150, False)
    goal("ready with 1,000,000 queued, s", of(("queued", 1000000), "ready_s"), 5, False)
    if rows:
        table("goals", ["", "measured", "wanted", ""], rows)


SHAPES = {
    "2 KiB": {},
    "20 KiB": {"bytes": 20480},
    "ten recipients": {"recipients": 10},
    "STARTTLS": {"tls": True},
    "50 ms round trip": {"rtt_ms": 50},
    "a tenth deferred": {"defer_permille": 100},
}


def plan(args, b, kinds):
    """(key, function) in the order of one round: subjects interleaved."""
    for kind in kinds:
        yield ("accept", kind.name), lambda k=kind: b.accept(k)
    shapes = args.shapes.split(",") if args.shapes else list(SHAPES) if args.long else ["2 KiB"]
    for shape in shapes:
        for algorithm in ("rsa", "ed25519", "none"):
            for kind in kinds:
                # of the others without a key only Postfix in the short form: a goal is measured by it
                if algorithm == "none" and not args.long and kind not in (subjects.Postchute, subjects.Postfix):
                    continue
                if algorithm in kind.signs_with and (algorithm == "rsa" or shape == "2 KiB"):
                    yield (("end to end", kind.name, algorithm, shape),
                           lambda k=kind, a=algorithm, o=SHAPES[shape]: b.end_to_end(k, a, **o))  # fmt: skip
    if subjects.Postchute in kinds:
        yield ("beside",), b.beside
        for count in args.queued:
            yield ("queued", count), lambda n=count: b.queued(n)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", help="subjects, separated by commas: " + ", ".join(k.name for k in subjects.ALL))
    parser.add_argument("--alone", action="store_true", help="postchute alone, without private namespaces")
    parser.add_argument("--what", help="accept, 'end to end', beside, queued; separated by commas")
    parser.add_argument("--shapes", help="of 'end to end': " + ", ".join(SHAPES) + "; separated by commas")
    parser.add_argument("--queued", type=int, nargs="*", help="how many messages wait; 1000 100000 1000000 in the long form")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--messages", type=int, default=10000)
    parser.add_argument("--peer-messages", type=int, help="for those that are slower; 10000 in the long form, else 500 to 2000")
    parser.add_argument("--binary", default=str(subjects.TOP / "build/release/postchute"))
    parser.add_argument("--sync-us", type=int, help="so long takes each sync at least, the raw ones, too: as on another disk")
    parser.add_argument("--json", help="all figures of all rounds")
    args = parser.parse_args()
    args.binary = os.path.abspath(args.binary)
    if args.sync_us:
        os.environ[subjects.SYNC_US] = str(args.sync_us)
        print(f"Each sync is made to take {args.sync_us} us at least, but OpenSMTPD's.\n")
    if args.queued is None:
        args.queued = [1000, 100000, 1000000] if args.long else []
    args.rounds = args.rounds or (3 if args.long else 1)
    wanted = args.only.split(",") if args.only else [k.name for k in subjects.ALL]
    if args.alone:
        wanted = ["postchute"]
    kinds = [k for k in subjects.ALL if k.name in wanted]
    began = time.monotonic()
    results, limits, steal = {}, {name: [] for name in LIMITS}, []
    b = Bench(args)
    for n in range(args.rounds):
        before = stolen()
        for name, measure in LIMITS.items():
            limits[name].append(measure()["per_second"])
        for key, run in plan(args, b, kinds):
            if args.what and key[0] not in args.what.split(","):
                continue
            at = f"{time.monotonic() - began:4.0f} s"
            print(f"bench: {at}: round {n + 1} of {args.rounds}: {', '.join(str(k) for k in key)}", file=sys.stderr, flush=True)
            try:
                results.setdefault(key, []).append(run())
            except (RuntimeError, OSError, subprocess.SubprocessError) as fault:
                print(f"bench: left out: {fault}", file=sys.stderr, flush=True)
                if not results[key]:
                    del results[key]
        steal.append(stolen_since(before))
    print(f"bench: {time.monotonic() - began:4.0f} s: done", file=sys.stderr, flush=True)
    report(results, limits, steal)
    goals(results)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"limits": limits, "stolen_percent": steal, "results": [{"key": list(k), "rounds": v} for k, v in results.items()]}, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

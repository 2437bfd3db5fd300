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

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "power"))
import built  # noqa: E402
import subjects  # noqa: E402

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

    def wait(self, patience=120):
        """The monotonic time at which the next count of --tell was reached."""
        if not select.select([self.process.stdout], [], [], patience)[0]:
            raise RuntimeError(f"not everything arrived within {patience} s")
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

    def messages(self, kind, shape="2 KiB"):
        """How many are asked of it: fewer of the others in the short form, and in the long one of those for which another shape takes minutes."""
        if kind is subjects.Postchute:
            return self.args.messages
        least = kind.brief if not self.args.long else kind.most if shape != "2 KiB" else self.args.messages
        return min(self.args.messages, self.args.peer_messages or least)

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
                        count = min(count, self.messages(kind) if connections >= 64 else max(500, 50 * connections))
                    io = s.io()
                    beside = kind is subjects.Postchute and connections == 1  # what a disk can do changes from second to second
                    syncs = [raw_syncs()["per_second"]] if beside else []
                    got = load(s, connections, count)
                    if beside:
                        got["raw_syncs"] = statistics.mean(syncs + [raw_syncs()["per_second"]])
                    got["anonymous_mib"] = s.memory()[0]
                    got.update(s.io_since(io, count))
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
        messages = messages or self.messages(kind)
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
                seconds = sink.wait(120 + messages // 50) - start
            if kind is subjects.Postchute:
                self.settled(s, WARM + messages * recipients)
            else:
                time.sleep(0.5)
            out = {
                "messages": messages, "per_second": messages / seconds, "accepted": accepted, "cpu_ms": (s.cpu_seconds() - cpu) * 1000 / messages,
                "anonymous_mib": memory.anonymous, "resident_mib": memory.resident,
            }  # fmt: skip
            out.update(s.io_since(io, messages))
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

    def queued(self, kind, count):
        """`count` messages waiting: accept rate, memory; of postchute time until ready after a start, too (the others greet before they read their queue)."""
        is_ours = kind is subjects.Postchute
        sink = Sink(mute=1)
        s = self.make(kind, sink, "rsa", hold=not is_ours).start()
        try:
            with Watch(s) as memory:
                load(s, 64, count, prefix="fill")
                time.sleep(3)  # what was filled is copied into the file
                # a second or so: checkpoints are in it
                got = load(s, 64, 20000 if is_ours else self.args.peer_messages or kind.brief, prefix="then")
                time.sleep(1)
            out = {"per_second": got["per_second"], "anonymous_mib": memory.anonymous, "resident_mib": memory.resident}
            if is_ours:
                s.stop(patience=5)
                start = time.monotonic()
                s.start()
                out["ready_s"] = time.monotonic() - start
                time.sleep(2)
                out["anonymous_restarted_mib"], out["resident_restarted_mib"] = s.memory()
            return out
        finally:
            s.stop()
            sink.stop()


# ---- the report ----


def middle(values, form=",.0f"):
    """Median, and with several rounds (least..most); a number as `form` is as many digits."""
    form = f",.{form}f" if isinstance(form, int) else form
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    text = f"{statistics.median(values):{form}}"
    return text if len(values) == 1 else f"{text} ({min(values):{form}}..{max(values):{form}})"


def at(figures, *path):
    """What is at `path` of one round's figures, or None."""
    for name in path:
        figures = figures.get(name) if isinstance(figures, dict) else None
    return figures if isinstance(figures, (int, float)) else None


def divided(a, b):
    return a / b if a is not None and b else None


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
        get = lambda c, f: [at(r, c, f) for r in results["accept", name]]  # noqa: E731,B023
        rows.append([name] + [middle(get(c, "per_second")) for c in CONNECTIONS] + [middle(get(64, "syncs"), 3), middle(get(64, "bytes"))])
        late.append([name] + [f"{middle(get(c, 'p50_ms'), 1)} / {middle(get(c, 'p99_ms'), 1)}" for c in ("rate 100", "rate 1000", 64, 256)])
    if "postchute" in names:
        get = lambda c, f: [at(r, c, f) for r in results["accept", "postchute"]]  # noqa: E731
        late.append(["a bare accept: three threads, one synced write"]
                    + [f"{middle(get(c, 'bare_p50_ms'), 1)} / {middle(get(c, 'bare_p99_ms'), 1)}" for c in ("rate 100", "rate 1000")] + ["-", "-"])  # fmt: skip
    if rows:
        table("durable accepts per second", ["connections"] + list(CONNECTIONS) + ["syncs/msg", "bytes/msg"], rows)
        table("acknowledgement, ms, p50 / p99", ["", "100/s", "1,000/s", "64 connections", "256 connections"], late)
    if ("beside",) in results:
        get = lambda c, f: middle([at(r, c, f) for r in results["beside",]], 1)  # noqa: E731
        rows = [[name, get(c, "p50_ms"), get(c, "p99_ms"), get(c, "max_ms")]
                for name, c in (("200/s alone", "alone"), ("200/s beside four of 8 MB a second", "beside"), ("those", "large"))]  # fmt: skip
        table("acknowledgement of postchute, ms", ["", "p50", "p99", "most"], rows)
    shapes = {}
    for key in results:
        if key[0] == "end to end":
            shapes.setdefault(key[2:], []).append(key)
    for (algorithm, shape), keys in shapes.items():
        rows = []
        for key in keys:
            get = lambda *f: [at(r, *f) for r in results[key]]  # noqa: E731,B023
            share = [divided(at(r, "per_second"), at(r, "raw_signing")) for r in results[key]]
            rows.append([key[1], middle(set(get("messages"))), middle(get("per_second")), middle(share, 2), middle(get("cpu_ms"), 2),
                         middle(get("anonymous_mib")), middle(get("resident_mib")), middle(get("syncs"), 2), middle(get("bytes")),
                         f"{middle(get('accepted', 'p50_ms'), 1)} / {middle(get('accepted', 'p99_ms'), 1)}"])  # fmt: skip
        table(f"end to end, DKIM {algorithm}, {shape}",
              ["", "messages", "delivered/s", "of raw signing", "CPU ms/msg", "anon MiB", "resident", "syncs/msg", "bytes/msg",
               "acknowledged, ms, p50 / p99"], rows)  # fmt: skip
    rows = []
    for key, rounds in results.items():
        if key[0] == "queued":
            get = lambda f: [at(r, f) for r in rounds]  # noqa: E731,B023
            rows.append([key[1], f"{key[2]:,}", middle(get("per_second")), middle(get("anonymous_mib"), 1), middle(get("resident_mib")),
                         middle(get("ready_s"), 2), middle(get("anonymous_restarted_mib"), 1), middle(get("resident_restarted_mib"))])  # fmt: skip
    if rows:
        table("with messages queued", ["", "queued", "accepts/s", "anon MiB", "resident", "ready after s", "anon then", "resident then"], rows)


def goals(results, rounds):
    """What postchute wants to reach: measured, wanted. A ratio is one of figures of the same round; the median of the rounds is judged."""
    mb = 1.048576  # of a MiB

    def each(key, *path):
        """One for each round, None where that one was left out."""
        return [at(r, *path) for r in results.get(key, [{}] * rounds)]

    def end(name, algorithm, field="per_second"):
        return each(("end to end", name, algorithm, "2 KiB"), field)

    def accepts(name, connections, field="per_second"):
        return each(("accept", name), connections, field)

    def queued(count, field):
        return each(("queued", "postchute", count), field)

    def ratio(a, b):
        return [divided(x, y) for x, y in zip(a, b)]

    rows = []

    def goal(text, measured, wanted, least=True):
        found = [v for v in measured if v is not None]
        if found:
            met = statistics.median(found) >= wanted if least else statistics.median(found) <= wanted
            rows.append([text, middle(found, ",.3g"), f"{'>=' if least else '<='} {wanted:g}", "met" if met else "missed"])

    ours, ed = end("postchute", "rsa"), end("postchute", "ed25519")
    own = [max((v for v in pair if v), default=None) for pair in zip(end("node-redis", "rsa"), end("node-sqlite", "rsa"))]
    goal("RSA end to end / raw signing", ratio(ours, end("postchute", "rsa", "raw_signing")), 0.6)
    goal("RSA end to end / best of the self-made", ratio(ours, own), 5)
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
    goal("anonymous memory, MB", [v and v * mb for v in end("postchute", "rsa", "anonymous_mib")], 32, False)
    goal("syncs a message under load", end("postchute", "rsa", "syncs"), 0.1, False)
    goal("accepts, 100,000 queued / 1,000 queued", ratio(queued(100000, "per_second"), queued(1000, "per_second")), 0.9)
    more = zip(queued(1000, "anonymous_mib"), queued(100000, "anonymous_mib"))
    goal("more memory with 100,000 queued, MB", [(many - few) * mb if few and many else None for few, many in more], 5, False)
    goal("resident with 1,000,000 queued, MB", [v and v * mb for v in queued(1000000, "resident_mib")], 150, False)
    goal("ready with 1,000,000 queued, s", queued(1000000, "ready_s"), 5, False)
    if rows:
        table("goals: median (least..most) of the rounds, of ratios of the same round", ["", "measured", "wanted", ""], rows)


SHAPES = {
    "2 KiB": {},
    "20 KiB": {"bytes": 20480},
    "ten recipients": {"recipients": 10},
    "STARTTLS": {"tls": True},
    "50 ms round trip": {"rtt_ms": 50},
    "a tenth deferred": {"defer_permille": 100},
}


WHAT = ("accept", "end to end", "beside", "queued")


def some_of(known):
    """Reads an argument: a list of these, separated by commas."""

    def split(text):
        words = text.split(",")
        if wrong := [word for word in words if word not in known]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of: {', '.join(known)}")
        return words

    return split


def plan(args, b, kinds, is_first):
    """(key, function) in the order of one round, the first or another: subjects interleaved."""
    for kind in kinds:
        yield ("accept", kind.name), lambda k=kind: b.accept(k)
    shapes = args.shapes or (list(SHAPES) if args.long else ["2 KiB"])
    for shape in shapes:
        for algorithm in ("rsa", "ed25519", "none"):
            for kind in kinds:
                # of the others without a key only Postfix in the short form: a goal is measured by it
                if algorithm == "none" and not args.long and kind not in (subjects.Postchute, subjects.Postfix):
                    continue
                if algorithm in kind.signs_with and (algorithm == "rsa" or shape == "2 KiB"):
                    yield (("end to end", kind.name, algorithm, shape),
                           lambda k=kind, a=algorithm, n=b.messages(kind, shape), o=SHAPES[shape]: b.end_to_end(k, a, messages=n, **o))  # fmt: skip
    if subjects.Postchute in kinds:
        yield ("beside",), b.beside
    for count in args.queued:
        for kind in kinds:
            # 100,000 of all the others take ten minutes
            if kind is subjects.Postchute or (is_first and count <= 100000):
                yield ("queued", kind.name, count), lambda k=kind, n=count: b.queued(k, n)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    names = [k.name for k in subjects.ALL]
    parser.add_argument("--only", type=some_of(names), default=names, help="subjects, separated by commas: " + ", ".join(names))
    parser.add_argument("--alone", action="store_true", help="postchute alone, without private namespaces")
    parser.add_argument("--what", type=some_of(WHAT), default=WHAT, help="accept, 'end to end', beside, queued; separated by commas")
    parser.add_argument("--shapes", type=some_of(SHAPES), help="of 'end to end': " + ", ".join(SHAPES) + "; separated by commas")
    parser.add_argument("--queued", type=int, nargs="*", help="how many messages wait; 1000 100000 1000000 in the long form; the others: in the first round, no more than 100000")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--messages", type=int, default=10000)
    parser.add_argument("--peer-messages", type=int, help="for those that are slower; 10000 in the long form, else 500 to 2000")
    parser.add_argument("--binary", default=str(subjects.TOP / "build/release/postchute"))
    parser.add_argument("--sync-us", type=int, help="so long takes each sync at least, the raw ones, too: as on another disk")
    parser.add_argument("--json", help="all figures of all rounds")
    parser.add_argument("--check", action="store_true", help="looks at the arguments and for what was built, and ends")
    args = parser.parse_args()
    args.binary = os.path.abspath(args.binary)
    built.need("bench", TOOLS.parents[1], args.binary, *(f"tests/bench/tool_{name}" for name in ("limits", "load", "sink", "smtp", "store", "under")))
    if args.check:
        return 0
    if args.sync_us:
        os.environ[subjects.SYNC_US] = str(args.sync_us)
        print(f"Each sync is made to take {args.sync_us} us at least; OpenSMTPD makes none when it accepts.\n")
    if args.queued is None:
        args.queued = [1000, 100000, 1000000] if args.long else []
    args.rounds = args.rounds or (3 if args.long else 1)
    wanted = ["postchute"] if args.alone else args.only
    kinds = [k for k in subjects.ALL if k.name in wanted]
    began = time.monotonic()
    results, limits, steal = {}, {name: [] for name in LIMITS}, []
    b = Bench(args)
    for n in range(args.rounds):
        before = stolen()
        for name, measure in LIMITS.items():
            limits[name].append(measure()["per_second"])
        for key, run in plan(args, b, kinds, n == 0):
            if key[0] not in args.what:
                continue
            at = f"{time.monotonic() - began:4.0f} s"
            print(f"bench: {at}: round {n + 1} of {args.rounds}: {', '.join(str(k) for k in key)}", file=sys.stderr, flush=True)
            try:
                figures = run()
            except (RuntimeError, OSError, subprocess.SubprocessError) as fault:
                print(f"bench: left out: {fault}", file=sys.stderr, flush=True)
                continue
            results.setdefault(key, [{} for _ in range(args.rounds)])[n] = figures
        steal.append(stolen_since(before))
    print(f"bench: {time.monotonic() - began:4.0f} s: done", file=sys.stderr, flush=True)
    report(results, limits, steal)
    goals(results, args.rounds)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"limits": limits, "stolen_percent": steal, "results": [{"key": list(k), "rounds": v} for k, v in results.items()]}, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

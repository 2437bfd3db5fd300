"""The programs under measurement: each takes messages on `port` and relays them to the sink.

    s = Postchute(folder, sink_port, key="/path/rsa.pem"); s.start(); ...; s.cpu_seconds(); s.stop()

Their settings are the files of tests/bench/peers/, each line that is not plain necessity with its reason.
"""

import os
import pathlib
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
PEERS = TOP / "tests/bench/peers"
TOOLS = TOP / "build/release/tests/bench"
COUNTER = TOP / "build/bench/count_io.so"
SYNC_US = "COUNT_IO_SYNC_US"
RETRY_S = 2


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def descendants(pid):
    """pid and every process below it, with their fields of /proc/*/stat."""
    children, stat = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = pathlib.Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            fields = text.rsplit(")", 1)[1].split()
            stat[int(entry)] = fields
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, queue = {}, [pid]
    while queue:
        p = queue.pop()
        if p in stat:
            found[p] = stat[p]
            queue += children.get(p, [])
    return found


class Subject:
    name = speaks = ""
    signs_with = ("rsa", "none")  # what it can sign with here
    most = 1000000  # messages end to end of other shapes than the first; fewer for what would take minutes
    brief = 2000  # messages in the short form: at least three seconds of it, or 500 messages
    writes_by_stdio = False  # what it writes is not counted then: libc writes it without a call that can be seen

    def __init__(self, folder, sink, key=None, algorithm="none", hold=False, binary=None, tls=False):
        self.folder, self.sink, self.key, self.algorithm = pathlib.Path(folder), sink, key, algorithm
        self.hold, self.binary, self.tls = hold, binary, tls
        self.port, self.process, self.env = free_port(), None, {}
        self.folder.mkdir(mode=0o755)
        self.counts = self.folder / "counts"
        self.counts.write_bytes(bytes(16))
        self.counts.chmod(0o666)

    # ---- life ----

    def command(self):
        raise NotImplementedError

    def start(self):
        command = [str(c) for c in self.command()]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "COUNT_IO": str(self.counts)}
        if COUNTER.exists():
            env["LD_PRELOAD"] = str(COUNTER)
        if SYNC_US in os.environ:
            env[SYNC_US] = os.environ[SYNC_US]
        env.update({k: str(v) for k, v in self.env.items()})
        with open(self.folder / "output", "ab") as out:
            self.process = subprocess.Popen(
                [TOOLS / "tool_under"] + command, env=env, cwd=self.folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 60
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not start: see {self.folder}/output")
            time.sleep(0.02)
        return self

    def is_ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as s:
                return s.recv(4)[:3] == b"220"
        except OSError:
            return False

    def stop(self, patience=0.1):
        """Ends all of its processes; `patience` is how long it may take to do so by itself, for those who start it again. For
        everyone else what it has not delivered by now, and its files, are of no use."""
        if not self.process:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            pass
        while self.process.poll() is None:
            for pid in descendants(self.process.pid):
                if pid != self.process.pid:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            time.sleep(0.05)

    def fill(self, template, to, **words):
        words = {"folder": self.folder, "port": self.port, "sink": self.sink, "key": self.key, "retry": RETRY_S, **words}
        lines = []
        for line in (PEERS / template).read_text().splitlines():
            lines.append(line if line.startswith("#") else line.format(**words))
        to.write_text("\n".join(lines) + "\n")

    # ---- figures ----

    def cpu_seconds(self):
        ticks = sum(sum(map(int, f[11:15])) for f in descendants(self.process.pid).values())
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """(anonymous, resident) MiB of all its processes together; shared pages count in each."""
        anonymous = resident = 0
        for pid in descendants(self.process.pid):
            try:
                for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("RssAnon"):
                        anonymous += int(line.split()[1])
                    elif line.startswith("VmRSS"):
                        resident += int(line.split()[1])
            except OSError:
                pass
        return anonymous / 1024, resident / 1024

    def io(self):
        """(syncs, bytes written to files) so far; None where they are not counted."""
        return struct.unpack("QQ", self.counts.read_bytes()) if COUNTER.exists() else (None, None)

    def io_since(self, before, messages):
        """Of one message, since io() was `before`: {"syncs", "bytes"}, as far as they are counted."""
        if before[0] is None:
            return {}
        syncs, written = ((now - then) / messages for now, then in zip(self.io(), before))
        return {"syncs": syncs} if self.writes_by_stdio else {"syncs": syncs, "bytes": written}


class Postchute(Subject):
    name, speaks = "postchute", "http"
    signs_with = ("rsa", "ed25519", "both", "none")

    def command(self):
        self.env = {
            "POSTCHUTE_DATA": self.folder / "store",
            "POSTCHUTE_LISTEN": f"127.0.0.1:{self.port}",
            "POSTCHUTE_ROUTE": f"smtp://127.0.0.1:{self.sink}?tls={'opportunistic' if self.tls else 'none'}",
            "POSTCHUTE_ADMIN_KEY_FILE": self.folder / "admin.key",
            "POSTCHUTE_RETRY_AFTER": f"{RETRY_S}s",
            "POSTCHUTE_LOG_LEVEL": "warn" if self.algorithm != "none" else "error",
            "POSTCHUTE_CONFIG": self.folder / "config.yaml",
        }
        if not (self.folder / "admin.key").exists():
            made = subprocess.run([self.binary, "key", "generate"], check=True, capture_output=True, text=True).stdout.strip()
            with open(self.folder / "admin.key", "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
                f.write(made + "\n")
        self.api_key = (self.folder / "admin.key").read_text().strip()
        text = ""
        if self.algorithm != "none":
            keys = self.key if isinstance(self.key, list) else [self.key]
            dkim = ", ".join(f"{{ selector: s{i}, key_file: {k} }}" for i, k in enumerate(keys))
            text = f"domains:\n  - name: acme.test\n    dkim: [ {dkim} ]\n"
        (self.folder / "config.yaml").write_text(text)
        (self.folder / "config.yaml").chmod(0o600)
        return [self.binary, "serve"]

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as r:
                return r.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/metrics", headers={"Authorization": "Bearer " + self.api_key})
        out = {}
        with urllib.request.urlopen(request, timeout=30) as r:
            for line in r.read().decode().splitlines():
                if line and not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    out[name] = float(value)
        return out


class Postfix(Subject):
    name, speaks = "postfix", "smtp"
    brief = 1500
    signs_with = ("rsa", "none")

    def command(self):
        owner = pwd.getpwnam("postfix")
        conf, queue, data = (self.folder / n for n in ("conf", "queue", "data"))
        for path in (conf, queue, data):
            path.mkdir()
        os.chown(data, owner.pw_uid, owner.pw_gid)
        modes = {n: 0o700 for n in "active bounce corrupt defer deferred flush hold incoming private saved trace".split()}
        for folder, mode in {**modes, "maildrop": 0o730, "public": 0o710, "pid": 0o755}.items():
            (queue / folder).mkdir()
            (queue / folder).chmod(mode)
            if folder != "pid":
                os.chown(queue / folder, owner.pw_uid, 60126 if folder in ("maildrop", "public") else owner.pw_gid)
        milter, before = "", ""
        if self.algorithm != "none":
            milter = f"smtpd_milters = unix:{self.folder}/milter\nmilter_default_action = tempfail"
            self.fill("opendkim.conf", conf / "opendkim.conf")
            before = f"/usr/sbin/opendkim -f -x {conf}/opendkim.conf & "
        self.fill("postfix.cf", conf / "main.cf", milter=milter, smtp_tls="may" if self.tls else "none")
        self.fill("postfix.master.cf", conf / "master.cf")
        return ["/bin/sh", "-c", f"{before}exec /usr/lib/postfix/sbin/master -c {conf} -d"]


class Exim(Subject):
    name, speaks = "exim", "smtp"
    most, brief = 2000, 500  # with STARTTLS 67 a second
    writes_by_stdio = True

    def command(self):
        (self.folder / "spool").mkdir()
        owner = pwd.getpwnam("Debian-exim")
        for path in (self.folder, self.folder / "spool"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        dkim = ""
        if self.algorithm != "none":
            dkim = f"  dkim_domain = acme.test\n  dkim_selector = s0\n  dkim_private_key = {self.key}\n  dkim_canon = relaxed"
        # every message would start a process that waits for a receiver that says nothing
        self.fill("exim.conf", pathlib.Path("/etc/exim4/exim4.conf"), dkim=dkim, queue_only=str(self.hold).lower(), avoid_tls="" if self.tls else "*")
        return ["/usr/sbin/exim4", "-bdf", f"-q{RETRY_S}s"]


class OpenSMTPD(Subject):
    name, speaks = "opensmtpd", "smtp"
    most = 2000  # 49 a second with 50 ms
    writes_by_stdio = True

    def command(self):
        shutil.rmtree("/var/spool/smtpd", ignore_errors=True)
        os.chmod("/var/spool/smtpd", 0o711)
        conf = self.folder / "smtpd.conf"
        words = {"filter": "", "use_filter": ""}
        if self.algorithm != "none":
            words = {
                "filter": f'filter "dkim" proc-exec "filter-dkimsign -d acme.test -s s0 -k {self.key} -a rsa-sha256 -c relaxed/relaxed"',
                "use_filter": 'filter "dkim"',
            }
        self.fill("smtpd.conf", conf, **words)
        return ["/usr/sbin/smtpd", "-d", "-f", conf]


class Haraka(Subject):
    name, speaks = "haraka", "smtp"
    brief = 1500

    def command(self):
        config, plugins = self.folder / "config", self.folder / "plugins"
        shutil.copytree(TOP / "build/bench/npm/node_modules/Haraka/config", config)  # `haraka -i` does the same
        for path in (plugins, self.folder / "queue"):
            path.mkdir()
        for name in ("fsync.js", "bench.js"):
            shutil.copy(PEERS / "haraka" / name, plugins)
        (config / "me").write_text("bench.postchute.test\n")
        (config / "loglevel").write_text("WARN\n")  # what succeeded leaves no line; its default has several for a message
        # "dkim" last: it signs what all others have left
        (config / "plugins").write_text("fsync\nbench\n" + ("dkim\n" if self.algorithm != "none" else ""))
        for name in ("smtp.ini", "outbound.ini", "dkim.ini"):
            self.fill("haraka/" + name, config / name, tls=str(self.tls).lower())
        if self.algorithm != "none":
            (config / "dkim" / "acme.test").mkdir(parents=True)
            shutil.copy(self.key, config / "dkim/acme.test/private")
            (config / "dkim/acme.test/selector").write_text("s0\n")
        self.env = {"BENCH_SINK": self.sink, "NODE_PATH": TOP / "build/bench/npm/node_modules"}
        return ["node", TOP / "build/bench/npm/node_modules/Haraka/bin/haraka", "-c", self.folder]


class Node(Subject):
    speaks, queue = "http", ""
    api_key = "none"

    def command(self):
        self.env = {
            "NODE_PATH": TOP / "build/bench/npm/node_modules", "BENCH_QUEUE": self.queue, "BENCH_FOLDER": self.folder,
            "BENCH_PORT": self.port, "BENCH_SINK": self.sink, "BENCH_KEY": self.key if self.algorithm != "none" else "",
            "BENCH_RETRY": RETRY_S, "BENCH_TLS": int(self.tls), "NODE_ENV": "production",
        }  # fmt: skip
        node = PEERS / "node"
        parts = []
        if self.queue == "redis":
            port = free_port()
            self.fill("redis.conf", self.folder / "redis.conf", port=port)
            self.env["BENCH_REDIS"] = port
            parts.append(f"/usr/bin/redis-server {self.folder}/redis.conf & sleep 0.3; ")
        workers = 0 if self.hold else 2
        parts += [f"(sleep 0.5; exec node {node}/worker.mjs) & "] * workers
        return ["/bin/sh", "-c", "".join(parts) + f"exec node {node}/api.mjs"]

    def is_ready(self):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True


class NodeRedis(Node):
    name, queue = "node-redis", "redis"


class NodeSqlite(Node):
    name, queue = "node-sqlite", "sqlite"


ALL = [Postchute, Postfix, Exim, OpenSMTPD, Haraka, NodeRedis, NodeSqlite]

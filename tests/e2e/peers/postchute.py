"""The program under test, as a process.

    server = Postchute(route="sandbox")           # settings by name: POSTCHUTE_ROUTE=sandbox
    server.start()
    answer = server.send(**{"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"})
    server.expect_log("route is down")             # a WARN or ERROR that this test causes on purpose
    server.stop()

Unless told otherwise it is a production profile with an administrator's key of its own. `stop` sends SIGTERM, wants exit status 0, and fails the test when the log holds a WARN or ERROR nobody expected.
`kill` is SIGKILL; `start` again goes on with the same store.
"""

import errno
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .process import Process, check, scratch, wait_until

def new_key(*options):
    """An API key, made by the program offline."""
    return check(os.environ["E2E_BIN"], "key", "generate", *options).strip()


def _dkim_key():
    """One RSA key for all servers: making one takes a while."""
    path = pathlib.Path(os.environ["E2E_DIR"]) / "dkim.pem"
    if not path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(pem)
        path.chmod(0o600)
    return path


def _give(path, user):
    try:
        shutil.chown(path, user)
    except OSError as failure:
        if failure.errno != errno.EROFS:  # a test that took the disk away
            raise


def _texts(value):
    """Each text in a tree of lists and dictionaries."""
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from _texts(one)


OPEN_STATES = {"scheduled", "queued", "sending", "deferred"}


class Api(requests.Session):
    """requests with the base address and the key filled in."""

    def __init__(self, base, key):
        super().__init__()
        self.base = base
        self.trust_env = False
        if key:
            self.headers["Authorization"] = f"Bearer {key}"

    def request(self, method, url, **options):
        options.setdefault("timeout", 30)
        if url.startswith("/"):
            url = self.base + url
        return super().request(method, url, **options)


class Postchute:
    _ports = 8025

    def __init__(self, **settings):
        self.dir = scratch("postchute")
        self.data = self.dir / "data"
        self.data.mkdir(mode=0o700)
        Postchute._ports += 2
        self.address = f"127.0.0.1:{Postchute._ports}"
        self.url = f"http://{self.address}"
        self.settings = {
            "data": self.data,
            "listen": self.address,
            "log_format": "json",
            "log_level": "debug",
            "hostname": "client.postchute.test",
            **settings,
        }
        self.arguments = ["serve"]
        # of the YAML file: a domain to sign for, as in most installations
        self.declared = {"domains": [{"name": "acme.test", "dkim": [{"selector": "s1", "key_file": str(_dkim_key())}]}]}
        self.process = None
        self.user = os.environ.get("E2E_USER")  # whom it runs as, without rights; none: as we do
        self.starts = 0
        self.expected = []
        if "admin_key" not in self.settings and "admin_key_file" not in self.settings:
            self.settings["admin_key"] = new_key()
        self.admin_key = self.settings.get("admin_key") or ""

    def environment(self):
        env = {"PATH": os.environ["PATH"], "TZ": "UTC", "LANG": "C.UTF-8"}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LLVM_PROFILE_FILE", "GCOV_PREFIX"):
            if os.environ.get(name):
                env[name] = os.environ[name]
        for name, value in self.settings.items():
            if isinstance(value, (list, tuple)):
                value = ",".join(map(str, value))
            if value is not None:
                env["POSTCHUTE_" + name.upper()] = str(value)
        return env

    @staticmethod
    def binary():
        return os.environ["E2E_BIN"]

    def command(self, *arguments, **options):
        """Runs a sub-command against this server's store; returns the finished process."""
        options.setdefault("timeout", 30)
        options.setdefault("stdin", subprocess.DEVNULL)
        if "input" in options:
            del options["stdin"]
        before = self.confined() if arguments[0] == "serve" else []
        return subprocess.run(
            [*before, self.binary(), *map(str, arguments)], env=self.environment(), capture_output=True, text=True, **options
        )

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self, wait=True, timeout=30.0):
        assert os.access(self.binary(), os.X_OK), f"{self.binary()} is not built"
        self.starts += 1
        self.write_declared()
        self.log_path = self.dir / f"log-{self.starts}"
        self.process = Clean([*self.confined(), self.binary(), *self.arguments], self.log_path, self.environment())
        if wait:
            self.process.wait_ready(self.ready, "postchute is ready", timeout)
        return self

    def confined(self):
        """What stands before the command so that it runs as in production; its files become the user's."""
        if not self.user:
            return []
        self.hand_over()
        data = pathlib.Path(self.settings["data"])
        writable = data if data.is_dir() else data.parent
        _give(writable, self.user)
        return [pathlib.Path(__file__).resolve().parents[1] / "confined", self.user, writable]

    def hand_over(self):
        """Gives what the tests wrote for the server (as root) to its user."""
        if not self.user:
            return
        named = [value for value in (*self.settings.values(), *_texts(self.declared)) if str(value).startswith(os.environ["E2E_DIR"])]
        folders = [self.dir, pathlib.Path(self.settings["data"])]
        for path in (*map(pathlib.Path, named), *(path for folder in folders for path in (folder, *folder.rglob("*")))):
            if path.exists():
                _give(path, self.user)

    def write_declared(self):
        """The YAML file; JSON is YAML."""
        if self.declared and self.settings.get("config", self.dir / "postchute.yaml") == self.dir / "postchute.yaml":
            self.settings["config"] = self.dir / "postchute.yaml"
            self.settings["config"].touch(mode=0o600)
            self.settings["config"].write_text(json.dumps(self.declared, indent=1))

    def ready(self):
        try:
            return requests.get(self.url + "/readyz", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def stop(self, status=0, timeout=30.0):
        if self.process is None:
            return
        process, self.process = self.process, None
        got = process.stop(signal.SIGTERM, timeout)
        self.check_log()
        assert got == status, f"exit status {got}, expected {status}:\n{self.log()[-8000:]}"

    def kill(self):
        """SIGKILL: what a crash leaves. What it said before is judged like at a stop."""
        process, self.process = self.process, None
        process.kill()
        self.check_log()

    def reload(self):
        self.hand_over()
        self.process.popen.send_signal(signal.SIGHUP)

    def __enter__(self):
        return self if self.process else self.start()

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        elif self.process is not None:
            self.process.kill()
            print(self.log()[-20000:])

    # ---- the log -------------------------------------------------------------------------------------------------

    def log(self):
        return self.log_path.read_text(errors="replace")

    def records(self):
        found = []
        for line in self.log().splitlines():
            if line.startswith("{"):
                found.append(json.loads(line))
        return found

    def expect_log(self, pattern):
        """Declares that a WARN or ERROR line matching this regular expression belongs to the test."""
        self.expected.append(re.compile(pattern))

    def check_log(self):
        """Guide rule: a WARN or ERROR that no test expected is a failure; and so is a line that is no JSON object, and
        anything that a sanitizer says."""
        bad = []
        for line in self.log().splitlines():
            if line.startswith("profiling:"):
                continue  # the counters of a build for coverage, on a read-only system
            if not line.startswith("{"):
                # text: what the development profile greets with, and its log
                if re.search(r"^\S+ (WARN|ERROR) ", line) and not any(p.search(line) for p in self.expected):
                    bad.append(line)
                if re.search(r"ERROR: \w*Sanitizer|runtime error:|WARNING: ThreadSanitizer|broken promise", line):
                    bad.append(line)
                elif line and self.settings["log_format"] == "json" and self.settings.get("profile") != "development":
                    bad.append(line)
                continue
            record = json.loads(line)
            if record.get("level") in ("warn", "error", "WARN", "ERROR"):
                if not any(pattern.search(line) for pattern in self.expected):
                    bad.append(line)
        assert not bad, "unexpected in the log:\n" + "\n".join(bad[:20])

    # ---- asking it -----------------------------------------------------------------------------------------------

    def api(self, key=None):
        return Api(self.url, self.admin_key if key is None else key)

    def send(self, key=None, **message):
        """POSTs a message; returns the answer's body, after checking that it was accepted."""
        answer = self.api(key).post("/v1/messages", json=message)
        assert answer.status_code == 202, f"{answer.status_code}: {answer.text}"
        return answer.json()

    def message(self, message_id):
        answer = self.api().get(f"/v1/messages/{message_id}")
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
        return answer.json()

    def wait_verified(self, domain, timeout=20.0):
        """Waits until the domain is verified, and the API goes by it: what asks is a message with a fault."""
        wait_until(lambda: self.api().get(f"/v1/domains/{domain}").json()["verified"], f"{domain} is verified", timeout)
        message = {"from": f"a@{domain}", "to": "a@nowhere.invalid", "subject": "s", "text": "t", "expires_in": 366 * 24 * 3600}

        def faults():
            # never accepted: it expires too late
            return {error["code"] for error in self.api().post("/send", json=message).json()["errors"]}

        wait_until(lambda: "domain_not_verified" not in faults(), f"mail from {domain} is taken", timeout)

    def wait_final(self, message_id, timeout=30.0):
        """Waits until every recipient is final."""
        return self.wait_state(message_id, lambda state: state not in OPEN_STATES, timeout)

    def wait_state(self, message_id, wanted, timeout=30.0):
        """Waits until every recipient's state is `wanted`: a name, or a question about it."""
        is_wanted = wanted if callable(wanted) else lambda state: state == wanted
        seen = None

        def reached():
            nonlocal seen
            seen = self.message(message_id)
            return all(is_wanted(recipient["state"]) for recipient in seen["recipients"])

        try:
            wait_until(reached, f"message {message_id} in the wanted state", timeout, every=0.02)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{json.dumps(seen, indent=1)}\n{self.log()[-4000:]}") from None
        return seen

    def deliver(self, timeout=30.0, **message):
        """Sends, waits until it is final, and wants every recipient delivered."""
        seen = self.wait_final(self.send(**message)["id"], timeout)
        assert seen["state"] == "delivered", json.dumps(seen, indent=1) + self.log()[-4000:]
        return seen

    def events(self, message_id):
        return self._list(f"/v1/messages/{message_id}/events")

    def attempts(self, message_id):
        return self._list(f"/v1/messages/{message_id}/attempts")

    def _list(self, path):
        """All of a list, page by page."""
        found, after = [], None
        while True:
            answer = self.api().get(path, params={"after": after} if after else None)
            assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
            found += answer.json()["data"]
            after = answer.json().get("after")
            if not after:
                return found

    def metric(self, name):
        """The value of a metric, its labels included in the name."""
        return self.metrics()[name]

    def metrics(self):
        """{name with labels: value}, all of one moment."""
        lines = requests.get(self.url + "/metrics", timeout=5).text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#")) if name}

    def recipients(self):
        """How many there are, in whichever state: looked at until two looks agree, because one may see a
        recipient between two states, counted twice or not at all."""
        seen = None
        while True:
            metrics = self.metrics()
            now = sum(value for name, value in metrics.items() if name.startswith("postchute_outbox_recipients{"))
            if now == seen:
                return now
            seen = now

    def wait_log(self, pattern, timeout=20.0):
        """Waits for a line of the log that this regular expression matches; returns its match."""
        seek = re.compile(pattern, re.M)
        return wait_until(lambda: seek.search(self.log()), f"{pattern} in the log", timeout)


class Clean(Process):
    """A Process whose environment is exactly what is given."""

    def __init__(self, command, log, env, user=None):
        saved = dict(os.environ)
        os.environ.clear()
        try:
            super().__init__(command, log, env=env, user=user)
        finally:
            os.environ.update(saved)

"""The server under faults and the clients that load it, for tests/fault/server."""
import http.client
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import ssl
import sys
import threading
import time
import urllib.request

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "crash"), os.path.join(HERE, "..", "power")]
import ledger  # noqa: E402
import shim  # noqa: E402


def load_crash():
    path = os.path.join(HERE, "..", "crash", "run")
    spec = importlib.util.spec_from_loader("crash_run", importlib.machinery.SourceFileLoader("crash_run", path))
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    return module


crash = load_crash()
RECIPIENTS_MOST = 3  # of one transaction of the load
DELIVERED, BOUNCED, EXPIRED = 3, 4, 6  # storage/model.h
WEBHOOK_TIMEOUT_S = 3
ANYBODY = ssl.create_default_context()  # who it is proves nothing here
ANYBODY.check_hostname, ANYBODY.verify_mode = False, ssl.CERT_NONE


class Server(crash.Server):
    def __init__(self, args, folder, ports, cert, tls_key=None):
        super().__init__(args.build, args.binary, folder, ports[1], ports[2])
        self.url = f"http{'s' if tls_key else ''}://127.0.0.1:{self.port}"
        if tls_key:
            self.env.update({"POSTCHUTE_TLS_CERT": cert, "POSTCHUTE_TLS_KEY": tls_key})
        self.env.update({
            "POSTCHUTE_ROUTE": f"smtp://sink.example.net:{ports[1]}?tls=verify",
            "POSTCHUTE_DNS": f"127.0.0.1@{ports[0]}",
            "POSTCHUTE_CA_FILE": cert,
            # what a retry waits for is not what is measured here
            "POSTCHUTE_RETRY_AFTER": "200ms",
            "POSTCHUTE_SMTP_CONNECT_TIMEOUT": "2s", "POSTCHUTE_SMTP_STARTTLS_TIMEOUT": "2s",
            **{f"POSTCHUTE_SMTP_{what}_TIMEOUT": "3s" for what in ("GREETING", "EHLO", "MAIL", "RCPT", "DATA", "BLOCK", "END", "RSET")},
            "POSTCHUTE_WEBHOOK_TIMEOUT": f"{WEBHOOK_TIMEOUT_S}s",
            "POSTCHUTE_WEBHOOK_HTTP_HOSTS": "hook.example.net",  # any port, too
        })
        self.control = shim.Control(os.path.join(folder, "control"))
        self.env.update(self.control.env(args.build + "/tests/power/shim.so", self.store))
        self.reads_to = 0

    def accepts(self):
        try:
            with urllib.request.urlopen(self.url + "/readyz", timeout=5, context=ANYBODY) as answer:
                return answer.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, method=method, data=body and json.dumps(body).encode(),
                                         headers={"Authorization": "Bearer " + self.key, "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30, context=ANYBODY) as answer:
            return answer.read()

    def add_webhook(self):
        self.call("POST", "/v1/domains", {"name": "acme.test"})
        self.call("POST", "/v1/webhooks", {"url": f"https://hook.example.net:{self.hook_port}/", "events": ["message.completed"]})

    def new_log(self):
        with open(self.log_path, "rb") as f:
            f.seek(self.reads_to)
            text = f.read()
        self.reads_to += len(text)
        return text.decode(errors="replace")

    def disarm(self):
        self.control.set(fail_at=0, alloc_fail_at=0)

    def arm(self, values, n, times):
        self.disarm()
        self.control.set(mask=0, alloc_libraries=0, alloc_most_bytes=0, calls=0, allocs=0, failed=0, alloc_failed=0)
        at = {"alloc_fail_count": times, "alloc_fail_at": n} if "alloc_libraries" in values else {"fail_count": times, "fail_at": n}
        self.control.set(**at, **values)

    def counted(self):
        """Calls of the armed class, or allocations by the armed library, since it was armed."""
        return self.control.get("calls") + self.control.get("allocs")

    def reload(self):
        """Settings, routes, certificates; retention begins, too (contents are kept for a second)."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)

    def failed(self):
        return self.control.get("failed") + self.control.get("alloc_failed")


def wanted(email):
    """The final states that a recipient may have, by what peers.py answers it."""
    return {BOUNCED} if email.startswith("refused") else {EXPIRED} if email.startswith("never") else {DELIVERED}


class Client(threading.Thread):
    """Posts one message after the other, each until it is answered, with a pause between: what was refused makes no queue that would
    be measured instead of the server."""

    def __init__(self, batch, number):
        super().__init__(daemon=True)
        self.batch, self.name_, self.rng = batch, f"c{number}", random.Random(f"{batch.args.seed} {number}")
        self.connection, self.is_over = None, False
        self.start()

    def choose_recipients(self, key):
        """(who, more members). Who expires is alone: nobody else may for its sake."""
        dice = self.rng.random()
        if dice < 0.03:
            return ["never@example.net"], {"expires_in": self.rng.randint(1, 3)}
        to = [f"r{n}@example.net" for n in range(self.rng.randint(1, RECIPIENTS_MOST))]
        if dice < 0.08:
            to.append("refused@example.net")
        elif dice < 0.13:
            to.insert(0, f"later-{key}@example.net")
        return to if self.rng.random() < 0.7 else to[-1:], {}

    def post(self, key, body):
        """The status; 0: no answer."""
        server = self.batch.server
        try:
            if self.connection is None and server.url.startswith("https:"):
                self.connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=ANYBODY)
            elif self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            self.connection.request("POST", "/send", body, {"Authorization": "Bearer " + server.key, "Content-Type": "application/json",
                                                            "Idempotency-Key": key})
            answer = self.connection.getresponse()
            text = answer.read()
            if answer.status == 503 and not answer.headers.get("Retry-After", "").isdigit():
                self.batch.wrong.append(f"503 without a Retry-After: {text[:300]}")
            return answer.status, text
        except (OSError, http.client.HTTPException):
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            return 0, b""

    def run(self):
        try:
            self.load()
        except Exception as e:  # noqa: BLE001 - what a client cannot read is a failure
            self.batch.wrong.append(f"a client broke: {e!r}")

    def load(self):
        count = 0
        while not self.is_over:
            count += 1
            key = f"{self.name_}-{count}"
            size = 300_000 if self.rng.random() < 0.015 else self.rng.choice((300, 1500, 6000))
            (to, more), text = self.choose_recipients(key), f"{key} " + "x" * size
            body = json.dumps({
                "from": "load@acme.test", "to": to, **more, "subject": f"Load {key}", "external_id": key, "headers": {"X-Ledger": key}, "text": text,
                "tags": ["load", self.name_], "metadata": {"number": str(count)}})
            self.batch.note("ask", key, ledger.digest(text), ",".join(to))
            while not self.is_over:
                status, text = self.post(key, body)
                if status in (200, 202):
                    self.batch.note("ack", key, json.loads(text)["id"])
                    break
                if status not in (0, 503):
                    self.batch.note("no", key, str(status))
                    self.batch.wrong.append(f"a client was told {status}: {text[:300]}")
                    break
                time.sleep(0.05)
            if self.connection is not None and self.rng.random() < 0.1:  # handshakes, too
                self.connection.close()
                self.connection = None
            time.sleep(self.rng.uniform(0, 2 * self.batch.args.clients / self.batch.args.rate))

    def stop(self):
        self.is_over = True
        self.join(timeout=15)

#!/usr/bin/python3
"""The mixed load of the soak: what applications do with a relay, at a steady rate, and what they should not do.

    tests/soak/client.py SETTINGS.json

Settings: url, ca (or null), rate (requests a second), threads, ledgers (a folder), epoch_s, begin (monotonic seconds, of the harness),
keys ({"admin", "shop", "news", "test"}), seed. Ends at SIGTERM, when each request under way has its answer.

It keeps the ledgers of tests/crash/ledger.py, one for each epoch ("ask KEY DIGEST RECIPIENTS" before a message is posted for the first time,
"ack KEY ID", "no KEY STATUS"), and "end" when nothing will be added. What is answered wrongly (a repeated key with another id, a faulty request
that is taken, a page that cannot be read) is written to the file `wrong`.

Names tell what must become of a recipient: bad… is refused by the receiver, later… deferred until it is canceled or expires; a key with
".test" is of a test key and ends in the sandbox; everything else is delivered.
"""
import base64
import http.client
import json
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.parse

sys.path[:0] = [os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "crash")]
from ledger import digest  # noqa: E402

PATIENCE_S, AGAIN_S = 30, 0.1
WORDS = "the quick brown fox jumps over a lazy dog und größer als 1 < 2 & \u2713 ".split(" ")


def what_is_asked(m):
    """(digest of the contents in their order, recipients) for the ledger."""
    to = m["to"] if isinstance(m["to"], list) else [m["to"]]
    copies = [m["cc"].split("<")[1].rstrip(">")] if "cc" in m else []
    files = [base64.b64decode(one["content"]) for one in m.get("attachments", ())]
    return digest(*[m[name] for name in ("text", "html") if name in m], *files), ",".join([*to, *copies, *m.get("bcc", ())])


class Client(threading.Thread):
    def __init__(self, load, number):
        super().__init__()
        self.load, self.number = load, number
        self.rng = random.Random(f"{load.o['seed']} {number}")
        self.line, self.count, self.epoch = None, 0, 0
        self.known = []  # (id, key name, body, idempotency key) of late

    # ---- HTTP

    def connect(self):
        url = urllib.parse.urlsplit(self.load.o["url"])
        if url.scheme == "https":
            self.line = http.client.HTTPSConnection(url.hostname, url.port, timeout=PATIENCE_S, context=self.load.tls)
        else:
            self.line = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE_S)
        self.line.connect()
        self.line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def disconnect(self):
        if self.line is not None:
            self.line.close()
        self.line = None

    def ask(self, method, path, key, body=None, **headers):
        """(status, decoded body); (0, None): no answer."""
        try:
            if self.line is None:
                self.connect()
            text = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            fields = {"Authorization": "Bearer " + key, **{name.replace("_", "-"): value for name, value in headers.items()}}
            if text is not None:
                fields["Content-Type"] = "application/json"
            self.line.request(method, path, text, fields)
            answer = self.line.getresponse()
            got = answer.read()
            if answer.getheader("Connection", "").lower() == "close":
                self.disconnect()
            is_json = "json" in answer.getheader("Content-Type", "")
            return answer.status, json.loads(got) if is_json and got else got
        except (OSError, http.client.HTTPException):
            self.disconnect()
            return 0, None
        except ValueError:
            self.load.wrong(f"{method} {path}: an answer that is no JSON")
            self.disconnect()
            return 0, None

    def until_answered(self, method, path, key, body=None, **headers):
        """Repeats what got no answer, 503, or 408: what an application has to do."""
        while True:
            status, got = self.ask(method, path, key, body, **headers)
            if status not in (0, 408, 503):
                return status, got
            if self.load.is_over.is_set() and time.monotonic() > self.load.over_s + PATIENCE_S:
                return 0, None
            time.sleep(AGAIN_S * self.rng.uniform(0.5, 2))

    # ---- messages

    def text(self, size):
        words = " ".join(self.rng.choice(WORDS) for _ in range(40)) + "\n"
        return (words * (size // len(words) + 1))[:size]

    def message(self, kind):
        domain = self.rng.choice(self.load.o["domains"])
        m = {"from": f"Soak <soak@{domain}>", "to": f"r{self.rng.randrange(1000)}@example.net", "subject": f"soak {kind} {self.count}"}
        if kind == "several":
            m["to"] = [f"a{n}@example.net" for n in range(self.rng.randint(1, 4))]
            m["cc"], m["bcc"] = "Carl <carl@example.org>", ["blind@example.com"]
            m["html"], m["tags"], m["metadata"] = f"<p>{self.text(900)}</p>", ["soak", f"t{self.count % 50}"], {"n": str(self.count)}
        elif kind == "attachment":
            data = base64.b64encode(self.rng.randbytes(self.rng.randint(20_000, 300_000))).decode()
            m["attachments"] = [{"filename": "größe.bin", "content": data, "type": "application/octet-stream"}]
        elif kind == "refused":
            m["to"] = ["good@example.net", f"bad{self.count}@example.net"]
        elif kind in ("cancel", "expire"):
            m["to"] = f"later{self.count}@example.net"
            m["expires_in"] = 60 if kind == "expire" else 900  # of the server's seconds
        size = {"medium": 20_000, "large": self.rng.randint(1_000_000, 3_000_000)}.get(kind, self.rng.choice((200, 600, 1500, 4000)))
        m["text"] = self.text(size)
        return m

    def send(self, kind):
        key_name = "test" if kind == "test" else self.rng.choice(("admin", "shop"))
        self.count += 1
        name = f"e{self.epoch}.{self.number}.{self.count}" + (".test" if kind == "test" else "")
        body = self.message(kind)
        if key_name == "shop":
            body["from"] = f"shop@{self.load.o['domains'][0]}"
        body["external_id"], body["headers"] = name, {"X-Ledger": name}
        wait = {"Prefer": "wait=5"} if self.rng.random() < 0.01 else {}
        ledger = self.load.ledger(self.epoch)
        ledger.note("ask", name, *what_is_asked(body))
        body = json.dumps(body).encode()
        key = self.load.o["keys"][key_name]
        status, got = self.until_answered("POST", "/send", key, body, Idempotency_Key=name, **wait)
        if status not in (200, 202):
            if status != 0:
                ledger.note("no", name, status)
            return
        ledger.note("ack", name, got["id"])
        self.known.append((got["id"], key, body, name))
        del self.known[:-50]
        if kind == "cancel":
            self.cancel(got["id"], key)
        elif self.rng.random() < 0.05:
            again, other = self.until_answered("POST", "/send", key, body, Idempotency_Key=name)
            if again in (200, 202):
                ledger.note("ack", name, other["id"])
            elif again != 0:
                ledger.note("no", name, again)

    def cancel(self, id_, key):
        """Until it is: while it is being sent, there is nothing to cancel."""
        for _ in range(300):
            status, got = self.until_answered("POST", f"/v1/messages/{id_}/cancel", key, {})
            if status != 200:
                if status != 0:
                    self.load.wrong(f"cancel: {status} for {id_}: {str(got)[:200]}")
                return
            _, seen = self.until_answered("GET", f"/v1/messages/{id_}", key)
            if seen is None or seen.get("state") in ("canceled", "expired"):
                return
            time.sleep(0.05)

    # ---- everything else

    def look(self):
        if not self.known:
            return
        id_, key, _, _ = self.rng.choice(self.known)
        what = self.rng.choice(("", "", "", "/events", "/attempts", "/raw"))
        status, got = self.ask("GET", f"/v1/messages/{id_}{what}", key)
        # contents are erased, and a list may be looked at while its first entry is on its way
        if status not in (0, 200, 503) and not (what == "/raw" and status == 404):
            self.load.wrong(f"GET {what or 'message'}: {status} for {id_}: {str(got)[:200]}")

    def list(self):
        key, after = self.load.o["keys"]["admin"], None
        query = self.rng.choice(({}, {"state": "delivered"}, {"state": "bounced"}, {"to": "good@example.net"}, {"tag": "soak"},
                                 {"from": "soak@" + self.load.o["domains"][0]}))
        seen = set()
        for _ in range(3):
            page = {**query, "limit": 50, **({"after": after} if after else {})}
            status, got = self.ask("GET", "/v1/messages?" + urllib.parse.urlencode(page), key)
            if status in (0, 503):
                return
            if status != 200:
                self.load.wrong(f"list {page}: {status}: {str(got)[:200]}")
                return
            ids = [one["id"] for one in got["data"]]
            if seen & set(ids) or len(set(ids)) != len(ids):
                self.load.wrong(f"list {page}: a message twice")
            seen.update(ids)
            after = got["after"]
            if not after:
                return

    def others(self):
        path = self.rng.choice(("/v1/webhooks", "/v1/keys", "/v1/domains", "/v1/sandbox/messages", "/metrics", "/readyz", "/openapi.json"))
        status, got = self.ask("GET", path, self.load.o["keys"]["admin"])
        if status not in (0, 200, 503):
            self.load.wrong(f"GET {path}: {status}: {str(got)[:200]}")

    def misuse(self):
        """Each has one right answer."""
        keys, good = self.load.o["keys"], {"from": "a@" + self.load.o["domains"][0], "to": "x@example.net", "subject": "s", "text": "t"}
        kind = self.rng.choice(("no key", "other domain", "faults", "no json", "key reused", "too large", "deep", "no such"))
        if kind == "no key":
            status, wanted = self.ask("POST", "/send", "pc_nonsense", good)[0], (401,)
        elif kind == "other domain":
            status, wanted = self.ask("POST", "/send", keys["shop"], {**good, "from": "a@elsewhere.test"})[0], (403, 422)
        elif kind == "faults":
            status, wanted = self.ask("POST", "/send", keys["admin"], {"from": "nobody", "to": [], "subject": "a\nb", "attachments": [{}]})[0], (422,)
        elif kind == "no json":
            status, wanted = self.ask("POST", "/send", keys["admin"], b'{"from": "a@')[0], (400,)
        elif kind == "key reused" and self.known:
            _, key, body, name = self.rng.choice(self.known)
            other = json.dumps({**json.loads(body), "subject": "another"}).encode()
            status, wanted = self.ask("POST", "/send", key, other, Idempotency_Key=name)[0], (409, 422)
        elif kind == "too large":
            status, wanted = self.ask("POST", "/v1/keys", keys["admin"], b" " * 400_000)[0], (413, 0)  # it may close while we still send
        elif kind == "deep":
            status, wanted = self.ask("POST", "/send", keys["admin"], b"[" * 5000)[0], (400, 422)
        else:
            status, wanted = self.ask("GET", "/v1/messages/01934d7e-6f00-7a3b-8c1d-0242ac120002", keys["admin"])[0], (404,)
        if status not in (0, 503, *wanted):
            self.load.wrong(f"misuse ({kind}): {status}, and not {wanted}")

    def give_up(self):
        """Goes away in the middle of a request: nobody asked for this message."""
        try:
            self.disconnect()
            self.connect()
            body = json.dumps({"from": "a@" + self.load.o["domains"][0], "to": "x@example.net", "subject": "s", "text": self.text(50_000),
                               "external_id": "never-asked"}).encode()
            head = (f"POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.load.o['keys']['admin']}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode()
            whole = head + body
            self.line.sock.sendall(whole[: self.rng.randrange(1, len(whole) - 1)])
        except (OSError, http.client.HTTPException):
            pass
        self.disconnect()

    def request(self):
        kinds = (("plain", 50), ("several", 12), ("medium", 6), ("attachment", 3), ("large", 0.3), ("refused", 3), ("cancel", 0.7),
                 ("expire", 1), ("test", 4), (self.look, 10), (self.list, 1.5), (self.others, 1), (self.misuse, 2), (self.give_up, 0.5))
        what = self.rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
        if self.rng.random() < 0.02:
            self.disconnect()
        if callable(what):
            what()
        else:
            self.send(what)

    def run(self):
        share = self.load.o["rate"] / self.load.o["threads"]
        next_s = time.monotonic() + self.rng.random() / share
        try:
            while not self.load.is_over.is_set():
                now = time.monotonic()
                if now < next_s:
                    self.load.is_over.wait(next_s - now)
                    continue
                next_s = max(next_s + self.rng.expovariate(share), now - 1)  # what an outage held up does not all come at once
                self.epoch = self.load.epoch_now()
                self.request()
        except Exception as failure:  # noqa: BLE001  a defect of the test is a failure of it
            self.load.wrong(f"the client broke: {failure!r}")
            raise
        finally:
            self.epoch = 1 << 30
            self.disconnect()


class Ledger:
    def __init__(self, path):
        self.file, self.lock = open(path, "a"), threading.Lock()

    def note(self, *words):
        with self.lock:
            self.file.write(" ".join(map(str, words)) + "\n")
            self.file.flush()


class Load:
    def __init__(self, o):
        self.o, self.is_over, self.over_s, self.lock, self.ledgers = o, threading.Event(), 0, threading.Lock(), {}
        self.tls = ssl.create_default_context(cafile=o["ca"]) if o["ca"] else None
        self.faults = Ledger(os.path.join(o["ledgers"], "wrong"))
        self.ended = 0

    def epoch_now(self):
        return int((time.monotonic() - self.o["begin"]) / self.o["epoch_s"])

    def ledger(self, epoch):
        with self.lock:
            if epoch not in self.ledgers:
                self.ledgers[epoch] = Ledger(os.path.join(self.o["ledgers"], f"client-{epoch}"))
            return self.ledgers[epoch]

    def wrong(self, text):
        self.faults.note(text.replace("\n", " "))

    def end_before(self, epoch):
        for number in range(self.ended, epoch):
            self.ledger(number).note("end")
            with self.lock:
                self.ledgers.pop(number).file.close()
        self.ended = max(self.ended, epoch)

    def stop(self, *_):
        self.over_s = time.monotonic()
        self.is_over.set()

    def run(self):
        signal.signal(signal.SIGTERM, self.stop)
        threads = [Client(self, number) for number in range(self.o["threads"])]
        for one in threads:
            one.epoch = 0
            one.start()
        while any(one.is_alive() for one in threads):
            self.end_before(min(self.epoch_now(), *(one.epoch for one in threads)))
            time.sleep(0.2)
        self.end_before(self.epoch_now() + 1)


if __name__ == "__main__":
    with open(sys.argv[1]) as settings:
        Load(json.load(settings)).run()

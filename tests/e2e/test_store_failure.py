"""When the disk is full, or cannot be written, or rows are there that nobody wrote: nothing is half stored, the answer says what to do, and it
recovers."""

import base64
import contextlib
import datetime
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import uuid

import pytest
import requests

from peers.postchute import new_key
from peers.process import check, scratch, wait_until
from peers.sink import Sink
from peers.verify import dkim_verify
from peers.webhook import WebhookReceiver

GOOD = {"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"}


@pytest.fixture
def small_disk():
    """Mounts little disks; gone when the test ends."""
    mounted = []

    def mount(megabytes):
        path = scratch("disk")
        check("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", path)
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        check("umount", path)


@pytest.fixture
def failing_disk():
    """Mounts ext4 in a file; make_readonly(path) lets its file system find itself damaged, after which the kernel writes no octet more, with files
    open for writing, too (which a remount would refuse). mend(path) after all files were closed."""
    mounted = {}

    def cannot(why):
        print(f"\nNOT TESTED: a disk that becomes read-only while the server runs: {why}", file=sys.__stderr__, flush=True)
        pytest.skip(why)

    def mount(path):
        done = subprocess.run(["mount", "-o", "loop,errors=remount-ro", path.with_suffix(".image"), path], capture_output=True, text=True)
        if done.returncode != 0:
            cannot(f"no loop device: {done.stderr.strip()}")
        device = check("findmnt", "-n", "-o", "SOURCE", path).strip()
        mounted[path] = os.path.join("/sys/fs/ext4", os.path.basename(device), "trigger_fs_error")
        if not os.access(mounted[path], os.W_OK):
            cannot("this kernel makes no ext4 fail when asked")

    def new(megabytes):
        if not shutil.which("mkfs.ext4"):
            cannot("there is no mkfs.ext4")
        path = scratch("failing")
        with open(path.with_suffix(".image"), "wb") as image:
            image.truncate(megabytes << 20)
        check("mkfs.ext4", "-q", path.with_suffix(".image"))
        mount(path)
        return path

    def make_readonly(path):
        with open(mounted[path], "w") as trigger:
            trigger.write("1")
        with pytest.raises(OSError, match="Read-only"):
            (path / "probe").touch()

    def mend(path):
        check("umount", path)
        done = subprocess.run(["fsck.ext4", "-y", "-f", path.with_suffix(".image")], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout
        mount(path)

    new.make_readonly, new.mend = make_readonly, mend
    yield new
    for path in mounted:
        check("umount", path)


@pytest.fixture
def sink(cleanly):
    return cleanly(Sink("11.22.7.1"))


def on_disk(postchute, disk, sink, **settings):
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none", **{"disk_floor": "0", **settings})
    server.data = server.settings["data"] = disk / "data"
    return server.start()


def ballast(disk, leave):
    """Fills the disk, up to so many bytes."""
    path = disk / "ballast"
    with open(path, "wb") as out:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave
        if free > 0:
            os.posix_fallocate(out.fileno(), 0, free)
    return path


def total(server):
    return server.recipients()


def test_a_reload_that_the_store_cannot_take_is_undone_without_the_old_certificates_file(small_disk, postchute, sink, ca):
    disk = small_disk(32)
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none", disk_floor="0")
    server.data = server.settings["data"] = disk / "data"
    for pattern in ("settings not taken over", "the store is not writable", "the store failed", "checkpoint failed", "sweep failed",
                    "retention failed", "paused: the store cannot be written", "could not be claimed"):  # fmt: skip
        server.expect_log(pattern)
    old, new = ca.issue(["localhost", "127.0.0.1"]), ca.issue(["localhost", "127.0.0.1"])

    def use(one, name):
        cert, key = server.dir / f"{name}.cert", server.dir / f"{name}.key"
        cert.write_bytes(one.cert.read_bytes())
        key.touch(mode=0o600)
        key.write_bytes(one.key.read_bytes())
        server.declared.update(tls_cert=str(cert), tls_key=str(key))
        return cert

    gone = use(old, "old")
    server.declared["max_recipients"] = 2
    server.url = server.url.replace("http:", "https:")
    trusted = {"verify": str(ca.directory / "ca.pem"), "timeout": 10}

    def ready():
        with contextlib.suppress(requests.RequestException):
            return requests.get(server.url + "/readyz", **trusted).status_code == 200

    server.ready = ready
    server.start()
    gone.unlink()
    use(new, "new")
    server.declared.update(max_recipients=3, keys=[{"name": f"k{n}", "secret": new_key(), "scopes": ["send"]} for n in range(1500)])
    server.write_declared()
    filler = ballast(disk, leave=0)
    server.reload()
    said = server.wait_log(".*settings not taken over.*").group(0)
    assert "disk" in said or "full" in said, said
    filler.unlink()
    wait_until(server.ready, "a store that can be written")
    three = {**GOOD, "to": ["a@far.test", "b@far.test", "c@far.test"]}
    answer = requests.post(server.url + "/send", json=three, headers={"Authorization": f"Bearer {server.admin_key}"}, **trusted)
    assert answer.status_code == 422, answer.text  # of the API, too, the old settings


def test_a_full_disk_is_a_503_and_nothing_is_half_stored(small_disk, postchute, sink):
    disk = small_disk(48)
    server = on_disk(postchute, disk, sink, retry_after="200ms")
    for pattern in ("the store is not writable", "the store failed", "paused: the store cannot be written",
                    "could not be stored, will be repeated", "could not be claimed", "checkpoint failed",
                    "sweep failed", "retention failed"):  # fmt: skip
        server.expect_log(pattern)
    accepted = [server.send(**GOOD)["id"]]
    server.wait_final(accepted[0])
    filler = ballast(disk, leave=2 * 1024 * 1024)
    big = {**GOOD, "attachments": [{"filename": "x", "content": base64.b64encode(os.urandom(600_000)).decode()}]}
    refused = 0
    for n in range(40):
        answer = server.api().post("/send", json={**big, "subject": f"n{n}"}, headers={"Idempotency-Key": f"full-{n}"})
        assert answer.status_code in (202, 503), answer.text
        if answer.status_code == 202:
            accepted.append(answer.json()["id"])
            continue
        refused += 1
        assert int(answer.headers["retry-after"]) >= 1 and answer.json()["code"] in ("unavailable", "overloaded"), answer.text
        if refused == 3:
            break
    assert refused == 3
    assert server.process.popen.poll() is None
    assert requests.get(server.url + "/livez", timeout=5).status_code == 200
    # what was stored can still be read
    assert server.message(accepted[0])["state"] == "delivered"
    filler.unlink()
    wait_until(server.ready, "ready again", timeout=20)
    again = wait_until(
        lambda: (a := server.api().post("/send", json={**big, "subject": f"n{n}"}, headers={"Idempotency-Key": f"full-{n}"})).status_code
        == 202 and a, "the same request is taken now", timeout=20,
    )  # fmt: skip
    accepted.append(again.json()["id"])
    for one in accepted:
        server.wait_state(one, "delivered", timeout=30)
    # each promise is kept, and nothing else was kept
    listed = server._list("/v1/messages")
    assert sorted(one["id"] for one in listed) == sorted(accepted)
    assert total(server) == len(accepted) and server.metric("postchute_outbox_balance") == 0
    mids = [re.search(rb"\r\nMessage-ID: <([^@]+)@", message.data).group(1).decode() for message in sink.ledger]
    assert set(mids) == set(accepted)
    server.stop()
    with sqlite3.connect(server.data / "outbox.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    server.start()
    assert total(server) == len(accepted)


@pytest.mark.parametrize("is_killed", [False, True])
def test_on_a_full_disk_results_and_webhooks_wait_and_a_start_does_no_harm(small_disk, postchute, cleanly, address, is_killed):
    """The receiver answers when there is no room left for the result: it is stored when there is again; after a kill the attempt is
    repeated, and marked."""
    is_full = threading.Event()
    sink = cleanly(Sink(address(), on={"end": lambda *_: is_full.wait(60) and None}))
    hook = cleanly(WebhookReceiver(address()))
    disk = small_disk(48)
    server = on_disk(postchute, disk, sink, retry_after="200ms", webhook_networks="11.0.0.0/8", webhook_http_hosts=hook.address)
    for pattern in ("the store is not writable", "the store failed", "paused: the store cannot be written", "could not be stored",
                    "could not be claimed", "checkpoint failed", "sweep failed", "retention failed", "attempts were under way"):  # fmt: skip
        server.expect_log(pattern)
    assert server.api().post("/v1/webhooks", json={"url": hook.url(), "events": ["message.completed"]}).status_code == 201
    one = server.send(**GOOD)["id"]
    wait_until(lambda: sink.sessions and any(verb == "DATA" for verb, _ in sink.sessions[-1].commands), "the message is on its way")
    filler = ballast(disk, leave=0)
    big = {**GOOD, "attachments": [{"filename": "x", "content": base64.b64encode(os.urandom(3_000_000)).decode()}]}
    wait_until(lambda: server.api().post("/send", json=big).status_code == 503, "no room")
    is_full.set()
    wait_until(lambda: len(sink.ledger) == 1, "taken")
    wait_until(lambda: "could not be stored" in server.log(), "the result finds no room")
    assert not hook.calls
    if is_killed:
        server.kill()
        server.write_declared()
        server.start(wait=False)  # it may refuse, with a reason, or wait for room; it must not make it worse
        wait_until(lambda: server.process.popen.poll() is not None or "not writable" in server.log() or server.ready(), "the start", timeout=20)
        assert server.process.popen.poll() in (None, 1)
        server.process.kill()
    filler.unlink()
    if is_killed:
        server.start()
    wait_until(server.ready, "ready again", timeout=20)
    seen = server.wait_state(one, "delivered", timeout=30)
    assert bool(seen["recipients"][0].get("possible_duplicate")) == is_killed
    (call,) = wait_until(lambda: [c for c in hook.calls if c.json()["data"]["message_id"] == one], "the webhook")
    assert len({re.search(rb"\r\nMessage-ID: (\S+)", m.data).group(1) for m in sink.ledger}) == 1
    assert len(sink.ledger) == 1 + is_killed
    assert server.metric("postchute_outbox_balance") == 0
    server.deliver(**GOOD)


def test_below_the_floor_nothing_more_is_accepted_but_delivery_goes_on(small_disk, postchute, cleanly):
    sink = cleanly(Sink("11.22.7.2", on={"RCPT": "451 4.3.0 later"}))
    disk = small_disk(64)
    server = on_disk(postchute, disk, sink, disk_floor="16MiB", retry_after="300ms")
    server.expect_log("less room than disk_floor")
    message = server.send(**GOOD)["id"]
    server.wait_state(message, "deferred")
    filler = ballast(disk, leave=8 * 1024 * 1024)
    wait_until(lambda: not server.ready(), "not ready", timeout=20)
    assert "disk" in requests.get(server.url + "/readyz", timeout=5).text
    (answer,) = wait_until(lambda: (a := server.api().post("/send", json=GOOD)).status_code == 503 and [a], "503", timeout=20)
    assert int(answer.headers["retry-after"]) >= 1 and "disk" in answer.text
    sink.on.pop("RCPT")
    server.wait_state(message, "delivered", timeout=10)
    filler.unlink()
    wait_until(server.ready, "ready again", timeout=20)
    server.deliver(**GOOD)
    told = [line["msg"].split()[3:5] for line in map(json.loads, server.log().splitlines()) if "disk_floor_mib" in line]
    assert told == [["less", "room"], ["room", "again,"]], server.log()


def test_a_start_below_the_floor_is_told_once(postchute):
    server = postchute(start=False, route="sandbox", disk_floor="1024GiB")
    server.expect_log("less room than disk_floor")
    server.start(wait=False)
    wait_until(lambda: '"msg":"ready"' in server.log(), "the start")
    assert server.api().post("/send", json=GOOD).status_code == 503 and not server.ready()
    (line,) = [line for line in map(json.loads, server.log().splitlines()) if "less room than disk_floor" in line["msg"]]
    assert line["level"] == "warn" and line["disk_floor_mib"] == 1024 * 1024 > line["free_mib"] > 0


def test_a_disk_that_becomes_read_only_is_a_503_until_it_is_mended(failing_disk, postchute, cleanly, address):
    """The file system finds itself damaged and goes read-only under the server, in the middle of a delivery: that is what errors=remount-ro does."""
    may_answer = threading.Event()
    sink = cleanly(Sink(address(), on={"end": lambda *_: may_answer.wait(60) and None}))
    disk = failing_disk(64)
    server = on_disk(postchute, disk, sink, retry_after="200ms")
    for pattern in ("the store is not writable", "the store failed", "paused: the store cannot be written", "could not be stored", "could not be claimed",
                    "checkpoint failed", "sweep failed", "retention failed", "attempts were under way", "ends with results that the store did not take"):  # fmt: skip
        server.expect_log(pattern)
    may_answer.set()
    done = server.deliver(**GOOD)["id"]
    may_answer.clear()
    one = server.send(**GOOD)["id"]
    wait_until(lambda: sum(verb == "DATA" for session in sink.sessions for verb, _ in session.commands) == 2, "the message is on its way")
    failing_disk.make_readonly(disk)
    api = server.api()
    for n in range(5):
        answer = api.post("/send", json=GOOD, headers={"Idempotency-Key": f"readonly-{n}"})
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1, answer.text
    may_answer.set()
    wait_until(lambda: len(sink.ledger) == 2, "taken")
    wait_until(lambda: "could not be stored" in server.log(), "the result cannot be stored")
    assert server.process.popen.poll() is None
    assert requests.get(server.url + "/livez", timeout=5).status_code == 200
    assert not server.ready()
    assert server.message(done)["state"] == "delivered"  # what is there can be read
    server.stop()
    failing_disk.mend(disk)
    server.start()
    began = time.monotonic()
    server.deliver(**GOOD)
    print(f"well again after {time.monotonic() - began:.1f} s")
    seen = server.wait_state(one, "delivered", timeout=30)
    assert seen["recipients"][0]["possible_duplicate"]
    assert len(server._list("/v1/messages")) == 3 and len(sink.ledger) == 4
    assert server.metric("postchute_outbox_balance") == 0


def test_a_store_that_cannot_be_written_stops_the_start(small_disk, postchute, sink):
    disk = small_disk(32)
    server = on_disk(postchute, disk, sink)
    server.deliver(**GOOD)
    server.stop()
    check("mount", "-o", "remount,ro", disk)
    try:
        server.write_declared()
        done = server.command("serve")
        assert done.returncode == 1
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("postchute")]
        assert str(server.data) in said and re.search("[Rr]ead-only", said), said
    finally:
        check("mount", "-o", "remount,rw", disk)
    server.start()
    assert len(server._list("/v1/messages")) == 1


def test_a_file_that_is_no_store_is_refused(postchute, sink):
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none")
    (server.data / "outbox.db").write_bytes(b"this is no database, and longer than a header of one would be" * 400)
    server.write_declared()
    done = server.command("serve")
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("postchute")]
    assert "outbox.db" in said or "not a database" in said, said
    assert (server.data / "outbox.db").read_bytes().startswith(b"this is no database")


# ---- rows that nobody wrote ---------------------------------------------------------------------------------------------


def test_a_declared_key_that_is_damaged_is_named_at_the_start(postchute):
    server = postchute(route="sandbox")
    server.stop()
    alter(server, "UPDATE api_key SET hash = x'00'")
    done = server.command("serve", timeout=20)
    assert done.returncode == 1
    assert "POSTCHUTE_ADMIN_KEY: prefix: the stored key of this prefix is damaged: use a new key" in done.stderr, done.stderr


def alter(server, query, *values):
    """Behind the server's back; returns what it says of one row."""
    with contextlib.closing(sqlite3.connect(server.data / "outbox.db")) as database, database:
        cursor = database.execute(query, values)
        assert query.startswith("SELECT") or cursor.rowcount >= 1
        return cursor.fetchone()


@pytest.mark.parametrize("table, column, bad, refused", [
    ("message", "tls", 99, {"get", "cancel", "retry"}),
    ("message", "recipients", 2, {"get", "cancel", "retry"}),
    ("recipient", "kind", 9, {"get", "cancel", "retry"}),
    ("message", "size", 1, {"raw"}),
])  # fmt: skip
def test_what_is_asked_of_a_damaged_message_is_a_409_and_changes_nothing(postchute, cleanly, table, column, bad, refused):
    sink = cleanly(Sink("11.22.7.1", on={"RCPT": lambda _, path: "450 4.2.1 later" if "later@" in path else "550 5.1.1 nobody"}))
    server = postchute(route=f"smtp://{sink.address}?tls=none", retry_after="1h")
    server.expect_log("a damaged row is passed over")
    bounced, sound = (server.send(**GOOD)["id"] for _ in range(2))
    for one in (bounced, sound):
        server.wait_state(one, "bounced")
    waiting = server.send(**{**GOOD, "to": "later@far.test"})["id"]
    server.wait_state(waiting, "deferred")
    verbs = {"get": ("GET", ""), "raw": ("GET", "/raw"), "cancel": ("POST", "/cancel"), "retry": ("POST", "/retry")}

    def ask(verb):
        method, path = verbs[verb]
        return server.api().request(method, f"/v1/messages/{bounced if verb == 'retry' else waiting}{path}")

    def listed():
        return {one["id"]: one["state"] for one in server._list("/v1/messages")}

    before = listed()
    where = ("seq" if table == "message" else "key / 1024") + " = (SELECT seq FROM message WHERE id = ?)"
    good = {}
    for one in (uuid.UUID(bounced).bytes, uuid.UUID(waiting).bytes):
        (good[one],) = alter(server, f"SELECT {column} FROM {table} WHERE {where}", one)
        alter(server, f"UPDATE {table} SET {column} = ? WHERE {where}", bad, one)
    for verb in sorted(refused):
        answer = ask(verb)
        assert answer.status_code == 409 and answer.headers["content-type"] == "application/problem+json", f"{verb}: {answer.text}"
        assert answer.json()["code"] == "conflict" and "damaged" in answer.json()["detail"], f"{verb}: {answer.text}"
    assert server.message(sound)["state"] == "bounced"
    for one, value in good.items():
        alter(server, f"UPDATE {table} SET {column} = ? WHERE {where}", value, one)
    assert listed() == before
    for verb, status in (("get", 200), ("raw", 200), ("retry", 202), ("cancel", 200)):
        answer = ask(verb)
        assert answer.status_code == status, f"{verb}: {answer.status_code} {answer.text}"


@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize("way", ["API", "settings"])
def test_a_domain_key_that_cannot_be_read_is_healed_by_its_domain_declared_anew(postchute, sink, way, is_sealed):
    """Nothing of the domain goes out unsigned meanwhile; others go on."""
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none")
    if is_sealed:
        server.settings["master_key_file"] = server.dir / "master.key"
        server.settings["master_key_file"].touch(mode=0o600)
        server.settings["master_key_file"].write_text(check(server.binary(), "key", "generate", "--master"))
    server.start()
    for pattern in ("a damaged row is passed over", "DKIM key cannot be read"):
        server.expect_log(pattern)
    api = server.api()
    assert api.get("/v1/domains/acme.test").json()["dkim"]
    alter(server, "UPDATE domain_key SET pem = substr(pem, 1, length(pem) - 100)")
    assert api.post("/v1/domains", json={"name": "other.test"}).status_code == 201  # now they are read again
    server.wait_log('"msg":"DKIM key cannot be read","domain":"acme.test"')
    held = server.send(**GOOD)["id"]
    server.wait_log('"msg":"held: no key of the domain can be read"')

    def wait_s():
        (recipient,) = server.message(held)["recipients"]
        if recipient["state"] == "sending":
            return 0
        assert recipient["state"] == "queued"
        return (datetime.datetime.fromisoformat(recipient["next_attempt_at"]) - datetime.datetime.now(datetime.UTC)).total_seconds()

    wait_until(lambda: wait_s() > 60, "the message is put off for minutes")
    other = server.deliver(**{**GOOD, "from": "a@other.test"})
    assert other["state"] == "delivered" and len(sink.ledger) == 1

    if way == "API":
        again = api.post("/v1/domains", json={"name": "acme.test"})
        assert again.status_code == 409 and again.json()["code"] == "conflict", again.text
        assert api.delete("/v1/domains/acme.test").status_code == 204
        assert api.post("/v1/domains", json={"name": "acme.test"}).status_code == 201
    else:
        server.reload()
        server.wait_log('"msg":"settings read again"')
    records = {one["name"]: one["value"] for one in api.get("/v1/domains/acme.test").json()["records"] if one["purpose"] == "dkim"}
    server.deliver(**{**GOOD, "subject": "new"})
    assert api.post(f"/v1/messages/{held}/retry").status_code == 202
    server.wait_state(held, "delivered")
    for message in sink.wait(3)[1:]:
        assert len(dkim_verify(message.data, records)) == len(records) > 0

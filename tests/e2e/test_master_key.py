"""Secrets at rest: what the outbox's files hold with a master key, without one, and while it is changed."""

import base64
import os
import pathlib
import re
import sqlite3

import pytest

from peers.postchute import new_key
from peers.process import check, wait_until
from peers.sink import Sink
from peers.verify import dkim_verify, webhooks_verify
from peers.webhook import WebhookReceiver
from test_operation import refused_start

GOOD = {"from": "a@sealed.test", "to": "b@far.test", "subject": "s", "text": "t"}


@pytest.fixture
def world(postchute, cleanly, ca):
    """A server, not started, its sink and a webhook's receiver."""
    sink = cleanly(Sink("11.22.17.1"))
    receiver = cleanly(WebhookReceiver("11.22.17.2", certificate=ca.issue(["11.22.17.2"])))
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none", ca_file=ca.directory / "ca.pem")
    server.declared = None
    server.sink, server.receiver, server.number = sink, receiver, 0
    return server


def key_file(server, text=None):
    server.number += 1
    path = server.dir / f"master-{server.number}.key"
    path.touch(mode=0o600)
    path.write_text(text or check(server.binary(), "key", "generate", "--master"))
    return path


def keys(server, current=None, previous=None):
    server.settings["master_key_file"] = current
    server.settings["master_key_previous_file"] = previous


def make_secrets(server):
    """A domain with generated keys and two webhooks, one of them rotated; returns the text of all secrets in use."""
    assert server.api().post("/v1/domains", json={"name": "sealed.test"}).status_code == 201
    hooks = [server.api().post("/v1/webhooks", json={"url": server.receiver.url(path), "events": ["final"]}).json()
             for path in ("/first", "/second")]  # fmt: skip
    rotated = server.api().post(f"/v1/webhooks/{hooks[1]['id']}/rotate").json()
    server.secrets = {"first": hooks[0]["secret"], "before": hooks[1]["secret"], "second": rotated["secret"]}
    assert len(set(server.secrets.values())) == 3
    return server.secrets


def works(server):
    """Signs with the keys in the outbox, and notifies with its secrets."""
    sent = len(server.sink.ledger)
    message_id = server.deliver(**GOOD)["id"]
    records = {one["name"]: one["value"] for one in server.api().get("/v1/domains/sealed.test").json()["records"]
               if one["purpose"] == "dkim"}  # fmt: skip
    message = server.sink.wait(sent + 1)[-1]
    assert len(dkim_verify(message.data, records)) == 2
    used = {"/first": ["first"], "/second": ["second", "before"]}

    def told():
        # of this message: after a crash those of an earlier one may come again
        calls = [call for call in list(server.receiver.calls) if call.json()["data"].get("message_id") == message_id]
        return calls if {call.path for call in calls} == set(used) else None

    calls = wait_until(told, "both webhooks are told")
    webhooks_verify([(call.headers, call.body.decode(), [server.secrets[name] for name in used[call.path]]) for call in calls])


def stored(server):
    return b"".join(path.read_bytes() for path in sorted(server.data.iterdir()) if path.is_file())


def in_clear(server):
    """Which kinds of secrets the files show."""
    files = stored(server)
    found = {name for name, secret in server.secrets.items() if secret.encode() in files}
    return found | ({"pem"} if b"PRIVATE KEY" in files else set())


ALL = {"first", "before", "second", "pem"}


def test_T23_without_a_master_key_secrets_are_in_clear_and_with_one_they_are_not(world):
    world.start()
    make_secrets(world)
    works(world)
    world.stop()
    assert in_clear(world) == ALL  # what the rest of these tests would not see otherwise
    master = key_file(world)
    keys(world, master)
    world.start()
    assert re.search(r'"msg":"secrets were sealed anew","secrets":5,', world.log())
    works(world)
    world.kill()  # with its log, as a crash leaves it
    world.expect_log("attempts were under way")
    assert in_clear(world) == set() and b"sealed:1:" in stored(world)
    assert master.read_text().strip().encode() not in stored(world)
    world.start()
    assert "sealed anew" not in world.log()
    works(world)
    # what is made now is sealed at once
    assert world.api().post("/v1/domains", json={"name": "later.test"}).status_code == 201
    world.stop()
    assert in_clear(world) == set()
    assert master.read_text().strip() not in world.log()


def new_webhook_secret():
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def forms(secret):
    """How a secret could be written: as it is, in base64 wherever it begins, in hexadecimal digits."""
    raw = secret.encode()
    if secret.startswith("whsec_"):
        raw = base64.b64decode(secret.removeprefix("whsec_"))
    shifted = [base64.b64encode(bytes(n) + raw)[4:-4] for n in range(3)]
    # of a key, the first characters are its public half, by which it is found
    return {secret.encode()[-24:], *(one for one in shifted if len(one) >= 12), raw.hex().encode()}


def told(secrets, text):
    """The names of those secrets that the text shows, in whichever form."""
    return {name for name, secret in secrets.items() if any(form in text for form in forms(secret))}


def shown(server):
    """What everybody may see of the process: its command line and what the kernel says is its environment. It has no child, of which there
    would be more."""
    pid = server.process.popen.pid
    assert not [path for path in pathlib.Path("/proc").glob("[0-9]*/stat") if is_child(path, pid)]
    folder = pathlib.Path(f"/proc/{pid}")
    return (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()


def is_child(stat, parent):
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1]) == parent
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended meanwhile


def pems(server):
    """The private keys in the outbox, each by one line from its middle."""
    with sqlite3.connect(server.data / "outbox.db") as db:
        rows = db.execute("SELECT selector, pem FROM domain_key WHERE pem LIKE '%PRIVATE KEY%'").fetchall()
    db.close()
    return {f"pem {selector}": pem.splitlines()[1] for selector, pem in rows}


def test_T23_no_secret_is_in_the_log_or_shown_by_the_process(postchute, cleanly, ca):
    """At the level debug: keys that are good, made and refused, a smarthost's passwords that are taken and refused, webhooks that are told, fail
    and are rotated, keys that sign, a reload, a master key."""
    certificate = ca.issue(["11.22.17.3"])
    secrets = {"password": os.urandom(16).hex(), "refused password": os.urandom(16).hex(), "stranger's key": new_key(), "send key": new_key(), "declared key": new_key(), "declared webhook": new_webhook_secret()}  # fmt: skip
    smarthost = cleanly(Sink("11.22.17.3", "relay", certificate=certificate, users={"relay": secrets["password"]}))
    receiver = cleanly(WebhookReceiver("11.22.17.3", certificate=certificate))
    route, refused = (f"smtp://relay:{secrets[name]}@11.22.17.3:25" for name in ("password", "refused password"))
    server = postchute(start=False, route=route, send_key=secrets["send key"], ca_file=ca.directory / "ca.pem", retry_after="60s")
    server.declared |= {
        "routes": [{"name": "refused", "smarthosts": [refused]}],
        "keys": [{"name": "declared", "secret": secrets["declared key"], "scopes": ["send"]}],
        "webhooks": [{"url": receiver.url("/declared"), "secret": secrets["declared webhook"], "events": ["*"]}],
    }
    secrets["admin key"] = server.admin_key
    server.expect_log("the smarthost refuses our credentials, route paused")
    server.expect_log("attempts were under way")
    server.start()
    assert told(secrets, server.settings["config"].read_bytes()) == {"refused password", "declared key", "declared webhook"}  # the control
    api = server.api()
    secrets["made key"] = api.post("/v1/keys", json={"name": "made", "scopes": ["send"]}).json()["key"]
    assert server.api(secrets["stranger's key"]).get("/v1/keys").status_code == 401
    assert server.api(secrets["made key"]).get("/v1/keys").status_code == 403
    assert api.post("/v1/domains", json={"name": "sealed.test"}).status_code == 201
    secrets["bad webhook"] = new_webhook_secret()
    hook = api.post("/v1/webhooks", json={"url": receiver.url("/made"), "events": ["*"]}).json()
    assert api.post("/v1/webhooks", json={"url": "https://10.0.0.1/x", "secret": secrets["bad webhook"]}).status_code == 422
    secrets["webhook"] = hook["secret"]
    secrets["rotated webhook"] = api.post(f"/v1/webhooks/{hook['id']}/rotate").json()["secret"]

    def work():
        for key in ("send key", "declared key", "made key", "admin key"):
            seen = server.send(secrets[key], **GOOD)
            assert server.wait_final(seen["id"])["state"] == "delivered"
        assert smarthost.ledger[-1].session.user == "relay"
        wait_until(lambda: {call.path for call in list(receiver.calls)} >= {"/declared", "/made"}, "both webhooks are told")
        receiver.calls.clear()

    work()
    receiver.answers = lambda call: 500 if call.path == "/made" else 200
    seen = server.send(**{**GOOD, "route": "refused"})
    server.wait_state(seen["id"], "deferred")
    wait_until(lambda: any(call.path == "/made" for call in list(receiver.calls)), "a webhook fails")
    server.reload()
    server.wait_log('"msg":"settings read again"')
    seen = shown(server)
    server.kill()
    secrets |= pems(server)
    assert len(secrets) >= 13 and told(secrets, stored(server)) >= {"webhook", "rotated webhook", *pems(server)}
    server.number = 0
    master = key_file(server)
    server.settings["master_key_file"], secrets["master key"] = master, master.read_text().strip()
    server.start()
    receiver.answers = (200,)
    work()
    seen += shown(server)
    server.stop()
    logs = b"".join(path.read_bytes() for path in sorted(server.dir.glob("log-*")))
    assert b'"level":"debug"' in logs and b"secrets were sealed anew" in logs
    assert told(secrets, logs) == set() and told(secrets, seen) == set() and b"PRIVATE KEY" not in logs + seen
    assert told(secrets, stored(server)) == set()


def test_a_sealed_outbox_opens_with_its_key_only(world):
    right, wrong = key_file(world), key_file(world)
    keys(world, right)
    world.start()
    make_secrets(world)
    world.stop()
    before = stored(world)
    for current, previous in ((None, None), (wrong, None), (None, wrong)):
        keys(world, current, previous)
        said = refused_start(world)
        assert "POSTCHUTE_MASTER_KEY" in said and re.search(r"sealed with the master key [0-9a-f]{8}", said), said
        done = world.command("key", "list")
        assert done.returncode == 1 and "sealed with the master key" in done.stderr, done.stderr
    assert in_clear(world) == set() and len(stored(world)) == len(before)
    # the same key in its other form
    keys(world, key_file(world, base64.b64decode(right.read_text()).hex()))
    world.start()
    works(world)


def test_a_master_key_is_changed_in_one_start(world):
    first, second, third = (key_file(world) for _ in range(3))
    keys(world, first)
    world.start()
    make_secrets(world)
    world.stop()
    for current, previous in ((second, first), (third, second)):
        keys(world, current, previous)
        world.start()
        assert "secrets were sealed anew" in world.log()
        works(world)
        world.stop()
        keys(world, current)
        world.start()
        works(world)
        world.stop()
        keys(world, previous)
        assert "sealed with the master key" in refused_start(world)
    # and given up: only the previous one is known
    keys(world, None, third)
    world.start()
    works(world)
    world.stop()
    assert in_clear(world) == ALL
    keys(world)
    world.start()
    works(world)


def test_a_command_without_a_server_seals_as_well(world):
    keys(world, key_file(world))
    done = world.command("domain", "add", "offline.test")
    assert done.returncode == 0, done.stderr
    assert b"PRIVATE KEY" not in stored(world) and b"sealed:1:" in stored(world)


@pytest.mark.parametrize("change", [
    "UPDATE webhook SET secret = (SELECT secret FROM webhook ORDER BY n DESC LIMIT 1)",
    "UPDATE webhook SET previous_secret = secret WHERE previous_secret IS NOT NULL",
    "UPDATE domain_key SET pem = substr(pem, 1, length(pem) - 8)",
    "UPDATE domain_key SET selector = selector || 'x'",
])  # fmt: skip
def test_a_secret_does_not_open_elsewhere_nor_changed(world, change):
    keys(world, key_file(world))
    world.start()
    make_secrets(world)
    world.stop()
    with sqlite3.connect(world.data / "outbox.db") as db:
        assert db.execute(change).rowcount >= 1
    db.close()
    said = refused_start(world)
    assert "does not open" in said and "the row was changed" in said, said


@pytest.mark.parametrize("text, says", [("short", "64 hexadecimal digits"), ("00" * 31, "64 hexadecimal digits"), ("", "is empty")])
def test_a_bad_master_key_is_refused(world, text, says):
    path = key_file(world)
    path.write_text(text)
    keys(world, path)
    for said in (refused_start(world), world.command("check-config").stderr):
        assert "POSTCHUTE_MASTER_KEY" in said and says in said, said
    assert not (world.data / "outbox.db").exists()


def test_a_master_key_that_everybody_can_read_is_refused(world):
    path = key_file(world)
    path.chmod(0o644)
    keys(world, path)
    said = refused_start(world)
    assert "POSTCHUTE_MASTER_KEY_FILE" in said and "chmod" in said


def test_a_master_key_in_the_environment_is_not_shown(world):
    world.settings["master_key"] = os.urandom(32).hex()
    world.start()
    with open(f"/proc/{world.process.popen.pid}/environ", "rb") as shown:
        seen = shown.read()
    assert b"POSTCHUTE_MASTER_KEY=" in seen and world.settings["master_key"].encode() not in seen

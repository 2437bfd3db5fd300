"""Secrets at rest: what the outbox's files hold with a master key, without one, and while it is changed."""

import base64
import os
import re
import sqlite3

import pytest

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

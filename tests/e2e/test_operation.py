"""What who runs it relies on: signals, settings, files, restarts, crashes, users without rights."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
import requests
from cryptography import x509

from peers.postchute import Clean, new_key
from peers.process import scratch, wait_until
from peers.sink import Sink

GOOD = {"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"}


@pytest.fixture
def sink(cleanly):
    return cleanly(Sink("11.22.6.1"))


def route(sink, query="tls=none"):
    return f"smtp://{sink.address}?{query}"


def refused_start(server):
    """Starts it in the foreground, where it has to give up; returns what it said."""
    server.write_declared()
    done = server.command("serve", timeout=20)
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("postchute")]
    assert len(said) == 1, done.stderr
    return said[0]


# ---- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, says",
    [({"lisen": "x"}, "POSTCHUTE_LISEN"), ({"max_recipients": "many"}, "POSTCHUTE_MAX_RECIPIENTS"),
     ({"max_recipients": "0"}, "from 1 to 1000"), ({"content_keep": "7 fortnights"}, "POSTCHUTE_CONTENT_KEEP"),
     ({"profile": "staging"}, "production|development"), ({"retry_after": "soon"}, "POSTCHUTE_RETRY_AFTER"),
     ({"route": "mx", "hostname": "box"}, "POSTCHUTE_HOSTNAME"), ({"ca_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
     ({"tls_cert": "/nowhere/cert.pem"}, "POSTCHUTE_TLS_KEY"), ({"dns": "not an address"}, "dns"),
     ({"listen": "nonsense"}, "nonsense"), ({"webhook_networks": "10.0.0.1/8"}, "10.0.0.1/8"),
     ({"admin_key": "hunter2"}, "POSTCHUTE_ADMIN_KEY"), ({"admin_key_file": "/nowhere/key"}, "POSTCHUTE_ADMIN_KEY"),
     ({"admin_key": None, "config": "/nowhere/postchute.yaml"}, "/nowhere/postchute.yaml"), ({"retry_after": "1m,,2m"}, "POSTCHUTE_RETRY_AFTER"),
     ({"only_to": "@@"}, "POSTCHUTE_ONLY_TO"), ({"route": "smtp//x"}, "POSTCHUTE_ROUTE"),
     ({"route": "smtp://127.0.0.1?ca=/nowhere/ca.pem"}, "/nowhere/ca.pem"), ({"tls_cert": "/etc/hosts", "tls_key": "/etc/passwd"}, "POSTCHUTE_TLS_")],
)  # fmt: skip
def test_a_bad_setting_stops_the_start_with_its_name_and_makes_nothing(postchute, settings, says):
    server = postchute(start=False, **{"route": "sandbox", **settings})
    said = refused_start(server)
    assert says.lower() in said.lower() and "hunter2" not in said
    assert not list(server.data.glob("outbox*"))


def test_a_key_of_another_certificate_stops_the_start_with_its_name(postchute, ca):
    one, other = ca.issue(["localhost"]), ca.issue(["localhost"])
    server = postchute(start=False, route="sandbox", tls_cert=one.cert, tls_key=other.key)
    assert "POSTCHUTE_TLS_KEY: this is not the key of the certificate" in refused_start(server)
    assert not list(server.data.glob("outbox*"))


@pytest.mark.parametrize(
    "text, says",
    [("rout: mx\n", "rout"), ("route: [\n", "line"), ("route: sandbox\nroute: mx\n", "line 2: "), ("keys:\n  - {nam: x}\n", "nam"),
     ("domains:\n  - name: not a domain\n", "domain: "), ("webhooks:\n  - {url: 'https://x.test', secret: short}\n", "secret"),
     ("webhooks:\n  - {url: 'https://10.0.0.1/x', secret: short}\n", "webhooks.url: endpoint 'https://10.0.0.1': the address is not a public one"),
     ("routes:\n  - {name: r, smarthosts: ['smtp://u:hunter2@h?tls=encrypt']}\n", "verify"),
     ("route: sandbox\nroutes:\n  - {name: default, kind: sandbox}\n",
      "routes.name: two routes are called 'default': it is the name of the one that the setting route makes"),
     ("route: &a sandbox\nhostname: *a\n", "")],
)  # fmt: skip
def test_a_bad_yaml_file_stops_the_start(postchute, text, says):
    server = postchute(start=False, route=None)
    server.declared = None
    path = server.dir / "bad.yaml"
    path.touch(mode=0o600)
    path.write_text(text)
    server.settings["config"] = path
    said = refused_start(server)
    assert says in said and "hunter2" not in said, said
    assert not list(server.data.glob("outbox*"))


def test_a_yaml_file_with_a_secret_is_not_open_to_everybody(postchute):
    server = postchute(start=False, route="sandbox")
    server.declared["keys"] = [{"name": "k", "secret": new_key(), "scopes": ["send"]}]
    server.write_declared()
    server.settings["config"].chmod(0o644)
    said = refused_start(server)
    assert "chmod o-rwx" in said and str(server.settings["config"]) in said and re.search(r": line \d+: ", said), said
    assert server.declared["keys"][0]["secret"] not in said
    server.settings["config"].chmod(0o640)
    server.start()


def test_secrets_come_from_files(postchute, sink):
    server = postchute(start=False, route=None, admin_key=None)
    keys = {name: new_key() for name in ("admin", "send")}
    for name, text in {**keys, "route": route(sink)}.items():
        path = server.dir / f"{name}.secret"
        path.write_text(text + "\n")
        path.chmod(0o600)
        server.settings[name + ("_file" if name == "route" else "_key_file")] = path
    server.start()
    assert server.api(keys["admin"]).get("/v1/keys").status_code == 200
    assert server.api(keys["send"]).post("/send", json=GOOD).status_code == 202
    assert server.api(keys["send"]).get("/v1/keys").status_code == 403
    sink.wait(1)
    # neither the environment nor the command line knows them
    pid = server.process.popen.pid
    seen = pathlib.Path(f"/proc/{pid}/environ").read_bytes() + pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    assert not any(key.encode() in seen for key in keys.values())


def test_T23_secrets_of_the_environment_are_shown_nowhere(postchute, sink):
    """Not by the kernel to whoever may ask, not in the outbox, not in the log; and SIGHUP still knows them."""
    server = postchute(start=False, route=f"smtp://relay:hunter2hunter2@{sink.address}", send_key=new_key())
    server.start()
    folder = pathlib.Path(f"/proc/{server.process.popen.pid}")
    secrets = [server.admin_key.encode(), server.settings["send_key"].encode(), b"hunter2hunter2"]
    seen = (folder / "environ").read_bytes()
    assert b"POSTCHUTE_ADMIN_KEY=" in seen and b"POSTCHUTE_ROUTE=" in seen and b"POSTCHUTE_HOSTNAME=client" in seen
    seen += (folder / "cmdline").read_bytes()
    assert re.search(r"^Max core file size\s+0\s+0\s", (folder / "limits").read_text(), re.M)
    server.reload()
    server.wait_log('"msg":"settings read again"')
    api = server.api(server.settings["send_key"])
    assert api.get("/v1/messages").status_code == 200
    created = server.api().post("/v1/keys", json={"name": "k", "scopes": ["send"]}).json()["key"]
    secrets.append(created.encode())
    assert server.api(created).get("/v1/keys").status_code == 403
    server.stop()
    seen += server.log().encode() + b"".join(path.read_bytes() for path in server.data.iterdir() if path.is_file())
    for secret in secrets:
        # of a key, the first characters are its public half, by which it is found
        assert secret not in seen and secret[-20:] not in seen


def test_T23_a_secret_that_everybody_can_read_is_refused(postchute):
    server = postchute(start=False, route="sandbox", admin_key=None)
    path = server.dir / "open.key"
    path.write_text(new_key())
    path.chmod(0o644)
    server.settings["admin_key_file"] = path
    assert "open.key" in refused_start(server)


def test_a_containers_secret_is_as_the_engine_made_it(postchute):
    server = postchute(start=False, route="sandbox", admin_key=None)
    key, path = new_key(), pathlib.Path("/run/secrets/postchute-test.key")  # /run is this world's own
    path.parent.mkdir(exist_ok=True)
    path.write_text(key)
    path.chmod(0o444)
    server.settings["admin_key_file"] = path
    server.start()
    assert server.api(key).get("/v1/messages").status_code == 200


def test_a_key_that_was_replaced_is_told_of_until_it_is_revoked(postchute):
    server = postchute(start=False, route="sandbox", admin_key=None)
    first, second = new_key(), new_key()
    path = server.settings["admin_key_file"] = server.dir / "admin.secret"
    path.write_text(first)
    path.chmod(0o600)
    server.start()
    path.write_text(second)
    server.expect_log("another key in force has the name of a declared one")
    server.reload()
    server.wait_log(f'"ends_with":"postchute key revoke {first[:16]}"')
    wait_until(lambda: server.api(second).get("/v1/keys").status_code == 200, "the new key opens")
    assert server.api(first).get("/v1/keys").status_code == 200


def test_declarations_are_applied_and_applied_again(postchute, sink):
    server = postchute(start=False, route=route(sink))
    key = new_key()
    (server.dir / "shop.key").write_text(key + "\n")
    (server.dir / "shop.key").chmod(0o600)
    server.declared["keys"] = [{"name": "shop", "secret_file": str(server.dir / "shop.key"), "scopes": ["send"], "from_domains": ["acme.test"]}]
    server.declared["domains"][0]["bounce_address"] = "bounces@acme.test"
    server.start()

    def state():
        api = server.api()
        return [sorted(json.dumps({k: v for k, v in one.items() if k != "used_at"}, sort_keys=True)
                       for one in api.get(path).json()["data"]) for path in ("/v1/keys", "/v1/domains", "/v1/webhooks")]  # fmt: skip

    first = state()
    assert server.api(key).post("/send", json=GOOD).status_code == 202
    assert server.api(key).post("/send", json={**GOOD, "from": "a@other.test"}).status_code == 403
    assert sink.wait(1)[0].mail_from == "bounces@acme.test"
    server.stop()
    server.start()
    assert state() == first
    assert server.api(key).post("/send", json=GOOD).status_code == 202


def test_a_revoked_key_is_not_brought_back_by_its_declaration(postchute, sink):
    server = postchute(start=False, route=route(sink))
    key = new_key()
    server.declared["keys"] = [{"name": "leaked", "secret": key, "scopes": ["send"]}]
    server.start()
    assert server.api(key).post("/send", json=GOOD).status_code == 202
    (row,) = (one for one in server.api().get("/v1/keys").json()["data"] if one["name"] == "leaked")
    assert server.api().delete(f"/v1/keys/{row['id']}").status_code == 204
    server.expect_log('declared key was revoked.*"name":"leaked"')
    server.reload()
    server.wait_log('"msg":"settings read again"')
    assert server.api(key).post("/send", json=GOOD).status_code == 401
    server.stop()
    server.start()
    server.wait_log("declared key was revoked")
    assert server.api(key).post("/send", json=GOOD).status_code == 401


def test_the_store_survives_with_its_keys_and_domains(postchute, sink):
    server = postchute(route=route(sink))
    made = server.api().post("/v1/keys", json={"name": "k", "scopes": ["send"]}).json()["key"]
    assert server.api().post("/v1/domains", json={"name": "other.test"}).status_code == 201
    selectors = [key["selector"] for key in server.api().get("/v1/domains/other.test").json()["dkim"]]
    server.stop()
    server.start()
    assert server.api(made).post("/send", json={**GOOD, "from": "a@other.test"}).status_code == 202
    (message,) = sink.wait(1)
    assert message.data.count(b"d=other.test;") == 2 and all(f"s={one};".encode() in message.data for one in selectors)


# ---- signals ----------------------------------------------------------------------------------------------------------


def test_sighup_takes_new_settings_over(postchute, cleanly, sink):
    other = cleanly(Sink("11.22.6.2"))
    server = postchute(start=False, route=None)
    server.declared.update(route=route(sink), max_recipients=2)
    server.start()
    server.deliver(**GOOD)
    assert len(sink.ledger) == 1
    three = {**GOOD, "to": ["a@far.test", "b@far.test", "c@far.test"]}
    assert server.api().post("/send", json=three).status_code == 422
    key = new_key()
    server.declared.update(route=route(other), max_recipients=3, keys=[{"name": "new", "secret": key, "scopes": ["send"]}])
    server.declared["domains"].append({"name": "new.test", "dkim": server.declared["domains"][0]["dkim"]})
    server.write_declared()
    server.reload()
    server.wait_log('"msg":"settings read again"')
    server.deliver(**three)
    assert len(sink.ledger) == 1 and len(other.ledger) == 1
    assert server.api(key).post("/send", json={**GOOD, "from": "a@new.test"}).status_code == 202
    (message,) = other.wait(1, where=lambda message: message.mail_from == "a@new.test")
    assert b"d=new.test;" in message.data


def test_sighup_says_what_takes_a_restart(postchute, sink):
    server = postchute(start=False, listen=None)
    server.declared.update(route=route(sink), listen=server.address)
    server.start()
    server.expect_log("taken at the next start only")
    server.declared.update(listen="127.0.0.1:19001", http_threads=3, delivery_threads=3, max_recipients=2)
    server.write_declared()
    server.reload()
    said = server.wait_log(".*taken at the next start only.*").group(0)
    assert "POSTCHUTE_LISTEN, POSTCHUTE_HTTP_THREADS, POSTCHUTE_DELIVERY_THREADS" in said, said
    server.wait_log('"msg":"settings read again"')
    three = {**GOOD, "to": ["a@far.test", "b@far.test", "c@far.test"]}
    assert server.api().post("/send", json=three).status_code == 422  # what can be taken is, at the address as before

    def read_again(count):
        server.write_declared()
        server.reload()
        wait_until(lambda: server.log().count('"settings read again"') == count, "another reload")
        return [record["settings"] for record in server.records() if "next start only" in record["msg"]]

    server.declared.update(listen=server.address)
    del server.declared["http_threads"]
    assert read_again(2)[1:] == ["POSTCHUTE_DELIVERY_THREADS"]  # what still waits is named again
    del server.declared["delivery_threads"]
    assert len(read_again(3)) == 2  # nothing waits


def test_every_smarthost_wants_a_verified_domain_when_the_setting_says_so(postchute, sink):
    server = postchute(start=False, route=route(sink), require_verified_domain="true")
    rule = {"name": "by-rule", "smarthosts": [route(sink)], "recipient_domains": ["ruled.test"]}
    server.declared["routes"] = [{"name": "relay", "smarthosts": [route(sink)]}, rule]
    server.start()
    for message in (GOOD, {**GOOD, "route": "relay"}, {**GOOD, "to": "b@ruled.test"}):
        answer = server.api().post("/send", json=message)
        assert answer.status_code == 422 and "domain_not_verified" in answer.text, answer.text
    assert not sink.ledger


def test_sighup_takes_a_new_certificate(postchute, sink, ca):
    """What is renewed stands in the same files; one that is broken leaves the old one in use, and every descriptor in its place."""
    certificate, other = ca.issue(["localhost", "127.0.0.1"]), ca.issue(["localhost", "127.0.0.1"])
    server = postchute(start=False, route=route(sink), http_threads=3)
    files = {name: server.dir / name for name in ("tls_cert", "tls_key")}
    server.settings.update(files)

    def put(one):
        files["tls_cert"].write_bytes(one.cert.read_bytes())
        files["tls_key"].touch(mode=0o600)
        files["tls_key"].write_bytes(one.key.read_bytes())

    def shown():
        pem = ssl.get_server_certificate(("127.0.0.1", int(server.address.split(":")[1])), timeout=5)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    def descriptors():
        folder = f"/proc/{server.process.popen.pid}/fd"
        found = []
        for one in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed since
                found.append(os.readlink(f"{folder}/{one}").split(":")[0])
        return sorted(found)

    def settled():
        one = descriptors()
        time.sleep(0.5)  # two ticks of the loops
        return one if one == descriptors() else None

    put(certificate)
    server.url = server.url.replace("http:", "https:")
    server.ready = lambda: requests_get(server.url + "/readyz", str(ca.directory / "ca.pem"))
    server.start()
    assert {shown() for _ in range(6)} == {certificate.x509.serial_number}
    put(other)
    server.reload()
    server.wait_log('"msg":"settings read again"')
    assert {shown() for _ in range(6)} == {other.x509.serial_number}
    # what served the old certificate ends with its last connection
    before = wait_until(settled, "a steady number of descriptors")
    server.expect_log("settings not taken over")
    files["tls_cert"].write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for count in range(1, 6):
        server.reload()
        wait_until(lambda: server.log().count("settings not taken over") == count, "the refusal")
    assert {shown() for _ in range(6)} == {other.x509.serial_number}
    assert "POSTCHUTE_TLS_CERT" in server.log()
    wait_until(lambda: descriptors() == before, "all descriptors as before")
    assert requests.post(server.url + "/send", json=GOOD, verify=str(ca.directory / "ca.pem"), timeout=10,
                         headers={"Authorization": f"Bearer {server.admin_key}", "Prefer": "wait=10"}).status_code == 200  # fmt: skip


def test_sighup_with_a_larger_max_message_bytes_reaches_the_sandbox(postchute):
    server = postchute(start=False, route="sandbox", max_message_bytes=None)
    server.declared["max_message_bytes"] = "1MiB"
    server.start()
    large = {**GOOD, "text": ("y" * 70 + "\n") * 30_000}
    assert server.api().post("/send", json=large).status_code in (413, 422)
    server.deliver(**GOOD)  # a session that stays open
    server.declared["max_message_bytes"] = "4MiB"
    server.write_declared()
    server.reload()
    server.wait_log('"msg":"settings read again"')
    server.deliver(**large)


def test_sighup_moves_what_waits_to_the_new_route(postchute, cleanly, sink):
    server = postchute(start=False, route=None, retry_after="300ms")
    server.declared["route"] = "smtp://11.22.6.99?tls=none"  # nobody is there
    server.expect_log("site does not answer, paused")
    server.start()
    message = server.send(**GOOD)["id"]
    server.wait_state(message, "deferred")
    server.declared["route"] = route(sink)
    server.write_declared()
    server.reload()
    server.wait_state(message, "delivered", timeout=15)
    assert len(sink.ledger) == 1


def test_a_new_route_is_open_as_soon_as_it_leads_somewhere(postchute, sink):
    """A reload that has much to declare takes its time, and mail for a route that it brings comes as soon as it may."""
    server = postchute(start=False, route="sandbox")
    server.declared["routes"] = [{"name": "old", "smarthosts": [route(sink)]}]
    server.start()
    server.deliver(**GOOD, route="old")
    assert server.api().post("/v1/messages", json={**GOOD, "route": "new"}).status_code == 422
    server.declared["routes"] = [{"name": "new", "smarthosts": [route(sink)]}]
    server.declared["domains"] = [{"name": f"d{n}.test"} for n in range(3)]  # keys are made for each
    server.write_declared()
    server.reload()

    def accepted():
        answer = server.api().post("/v1/messages", json={**GOOD, "route": "new"})
        return answer.json()["id"] if answer.status_code == 202 else None

    seen = server.wait_final(wait_until(accepted, "the new route", timeout=60))
    assert [one["attempts"] for one in seen["recipients"]] == [1]
    assert not [one for one in server.events(seen["id"]) if "deferred" in one["type"]]
    assert server.api().post("/v1/messages", json={**GOOD, "route": "old"}).status_code == 422
    assert len(sink.ledger) == 2


@pytest.mark.parametrize(
    "change", [{"max_recipients": "many"}, {"nonsense": 1}, {"route": "smtp://u:hunter2@h?tls=encrypt"}, {"routes": [{"name": "x"}, {"name": "x"}]}]
)
def test_a_bad_reload_keeps_the_old_settings(postchute, sink, change):
    server = postchute(start=False, route=None)
    server.declared["route"] = route(sink)
    server.start()
    server.expect_log("settings not taken over, the old ones stay")
    server.declared.update(change)
    server.write_declared()
    server.reload()
    said = server.wait_log(".*settings not taken over, the old ones stay.*").group(0)
    assert next(iter(change)).rstrip("s") in said.lower() and "hunter2" not in said, said
    server.deliver(**GOOD)
    assert len(sink.ledger) == 1
    # and a good one after it is taken
    server.declared = {name: value for name, value in server.declared.items() if name not in change or name == "route"}
    server.declared["route"] = route(sink)
    server.write_declared()
    server.reload()
    server.wait_log('"msg":"settings read again"')


@pytest.mark.parametrize(
    "wrong", [{"webhooks": [{"url": "http://127.0.0.1/hook", "secret": "whsec_" + 40 * "A"}]}, {"domains": [{"name": "not a domain"}]},
              {"route": "smtp://11.22.6.1?tls=verify&ca=/nowhere/ca.pem"}]
)  # fmt: skip
def test_a_reload_is_all_or_nothing(postchute, sink, wrong):
    """What is found wrong last, by whichever room, leaves what was right and came first undone, too."""
    server = postchute(start=False, route=None)
    server.declared.update(route=route(sink), max_recipients=2)
    server.start()
    server.expect_log("settings not taken over, the old ones stay")
    key = new_key()
    server.declared.update(max_recipients=3, keys=[{"name": "new", "secret": key, "scopes": ["send"]}], **wrong)
    server.write_declared()
    server.reload()
    server.wait_log("settings not taken over")
    three = {**GOOD, "to": ["a@far.test", "b@far.test", "c@far.test"]}
    assert server.api().post("/send", json=three).status_code == 422
    assert server.api(key).post("/send", json=GOOD).status_code == 401
    server.deliver(**GOOD)
    assert len(sink.ledger) == 1


def test_sigterm_lets_what_is_under_way_finish(postchute, cleanly):
    """The receiver has the message and takes its time with the answer: it is delivered, once."""
    reached, go = threading.Event(), threading.Event()

    def slow(session, message):
        reached.set()
        go.wait(10)

    sink = cleanly(Sink("11.22.6.3", on={"end": slow}))
    server = postchute(route=route(sink), shutdown_timeout="8s")
    message = server.send(**GOOD)["id"]
    assert reached.wait(10)
    process = server.process
    process.popen.send_signal(signal.SIGTERM)
    server.wait_log('"msg":"stopping"')
    # nothing new is taken
    wait_until(lambda: not server.ready(), "not ready any more")
    time.sleep(0.3)
    assert process.popen.poll() is None
    begun = time.monotonic()
    go.set()
    server.process = None
    assert process.popen.wait(10) == 0 and time.monotonic() - begun < 3
    server.check_log()
    server.start()
    seen = server.message(message)
    assert seen["state"] == "delivered" and seen["recipients"][0]["attempts"] == 1
    assert "possible_duplicate" not in seen["recipients"][0]
    assert len(sink.ledger) == 1


def test_sigterm_does_not_wait_for_ever(postchute, cleanly):
    release = threading.Event()
    reached = threading.Event()
    sink = cleanly(Sink("11.22.6.4", on={"end": lambda session, message: (reached.set(), release.wait(20))[1] and None}))
    server = postchute(route=route(sink), shutdown_timeout="1s", retry_after="200ms")
    server.expect_log("sessions are aborted")
    message = server.send(**GOOD)["id"]
    assert reached.wait(10)
    begun = time.monotonic()
    server.stop()
    assert 0.9 <= time.monotonic() - begun < 3
    release.set()
    server.start()
    seen = server.wait_state(message, "delivered")
    assert seen["recipients"][0]["possible_duplicate"]  # the dot was sent, the answer never came
    assert len(sink.ledger) == 2


def test_a_silent_name_server_does_not_hold_up_the_stop(postchute, sink):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("11.22.6.5", 53))
        server = postchute(route=route(sink), dns="11.22.6.5", shutdown_timeout="1s")
        assert server.api().post("/v1/webhooks", json={"url": "https://hook.acme.test/x"}).status_code == 201
        server.wait_final(server.send(**GOOD)["id"])
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 3


def test_a_second_signal_ends_the_wait(postchute, cleanly):
    reached, release = threading.Event(), threading.Event()
    sink = cleanly(Sink("11.22.6.7", on={"end": lambda session, message: (reached.set(), release.wait(20))[1] and None}))
    server = postchute(route=route(sink), shutdown_timeout="60s")
    server.send(**GOOD)
    assert reached.wait(10)
    process, server.process = server.process, None
    process.popen.send_signal(signal.SIGTERM)
    server.wait_log('"msg":"stopping"')
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(5) == -signal.SIGTERM
    release.set()
    server.check_log()


# ---- one server per store ---------------------------------------------------------------------------------------------


def test_a_second_server_on_the_same_store_is_refused(postchute, sink):
    server = postchute(route=route(sink))
    server.settings["listen"] = "127.0.0.1:18999"
    done = server.command("serve")
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("postchute")]
    assert str(server.data) in said and re.search("another|in use|running|holds", said), said
    server.settings["listen"] = server.address
    server.deliver(**GOOD)  # the first one does not mind


@pytest.mark.parametrize("rounds", [3])
def test_kill_9_loses_nothing(postchute, cleanly, rounds):
    """Killed while messages are under way: each is delivered, with the same Message-ID if twice, and marked then."""
    gate = threading.Event()
    reached = threading.Semaphore(0)

    def slow(session, message):
        reached.release()
        gate.wait(20)

    sink = cleanly(Sink("11.22.6.6", on={"end": slow}))
    server = postchute(route=route(sink), retry_after="200ms")
    server.expect_log("attempts were under way at the last stop")
    ids = []
    for _ in range(rounds):
        ids += [server.send(**GOOD)["id"] for _ in range(5)]
        assert reached.acquire(timeout=10)
        server.kill()
        server.start()
    sink.on.pop("end")
    gate.set()
    for one in ids:
        server.wait_state(one, "delivered")
    mids = {}
    for message in sink.ledger:
        mid = re.search(rb"\r\nMessage-ID: <([^@]+)@", message.data).group(1).decode()
        mids[mid] = mids.get(mid, 0) + 1
    assert set(mids) == set(ids)
    for one in ids:
        marked = server.message(one)["recipients"][0].get("possible_duplicate", False)
        assert marked or mids[one] == 1, one
    assert any(server.message(one)["recipients"][0].get("possible_duplicate") for one in ids)
    assert server.metric("postchute_outbox_balance") == 0


# ---- users, files, listeners --------------------------------------------------------------------------------------------


def test_T30_it_runs_without_rights_on_a_read_only_system(postchute, sink):
    """As all these tests do, when they may."""
    server = postchute(start=False, route=route(sink))
    server.user = "pc-tester"
    server.start()
    pid = server.process.popen.pid
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert re.search(rf"^Cap{kind}:\s+0+$", status, re.M), status
    assert not re.search(r"^[UG]id:.*\b0\b", status, re.M) and re.search(r"^Groups:\s*$", status, re.M), status
    inside = ["nsenter", "--target", str(pid), "--mount", "--root"]  # its root, too: this may be a chroot
    for path in ("/x", "/tmp/x", "/usr/x", "/etc/x", "/run/x", server.dir / "x"):
        tried = subprocess.run([*inside, "touch", path], capture_output=True, text=True)
        assert "Read-only file system" in tried.stderr, tried
    assert subprocess.run([*inside, "test", "-w", server.data]).returncode == 0
    server.deliver(**GOOD)
    if "a sanitizer's build" not in server.log():
        assert pathlib.Path(f"/proc/{pid}/environ").stat().st_uid == 0  # not dumpable: nobody else may read it
    for path in server.data.iterdir():
        mode = path.stat().st_mode & 0o777
        assert mode & 0o077 == 0, f"{path.name} is {mode:o}"
        assert path.owner() == "pc-tester"


def confinement(server):
    status = pathlib.Path(f"/proc/{server.process.popen.pid}/status").read_text()
    return {name: re.search(rf"^{name}:\s+(\S+)", status, re.M).group(1) for name in ("Seccomp", "Seccomp_filters", "NoNewPrivs")}


def test_T29_T30_the_process_is_confined_unless_told_otherwise(postchute, sink):
    """That nothing is refused while it works shows in every test: a refusal is an ERROR in the log."""
    off = postchute(route=route(sink), seccomp="off")
    without = confinement(off)
    assert without["NoNewPrivs"] == "1"
    for mode in ("on", "log"):
        server = postchute(route=route(sink), seccomp=mode)
        if "a sanitizer's build" in server.log():
            pytest.skip("no filter there")
        confined = confinement(server)
        assert confined["Seccomp"] == "2" and confined["NoNewPrivs"] == "1"
        assert int(confined["Seccomp_filters"]) == int(without["Seccomp_filters"]) + 1
        server.deliver(**GOOD)


def test_a_folder_that_may_not_be_written_is_a_clear_refusal(postchute):
    server = postchute(start=False, route="sandbox")
    server.write_declared()
    shutil.chown(server.data, "root")
    server.data.chmod(0o755)
    server.declared = None
    server.settings.pop("config", None)
    process = Clean([server.binary(), "serve"], server.dir / "out", server.environment(), "pc-tester")
    assert process.popen.wait(20) == 1
    said = [line for line in process.log().splitlines() if line.startswith("postchute")]
    assert len(said) == 1 and str(server.data) in said[0] and "ermission" in said[0], process.log()


def test_the_folder_is_made(postchute, sink):
    server = postchute(start=False, route=route(sink))
    server.data = server.settings["data"] = scratch("made") / "below"
    server.start()
    assert server.data.stat().st_mode & 0o077 == 0
    server.deliver(**GOOD)


def test_health_can_have_a_listener_of_its_own(postchute, sink):
    server = postchute(start=False, route=route(sink), listen_health="127.0.0.1:18998")
    health = "http://127.0.0.1:18998"
    server.ready = lambda: _answers(health + "/readyz")
    server.start()
    assert requests.get(health + "/livez", timeout=5).status_code == 200
    assert "postchute_outbox_balance 0" in requests.get(health + "/metrics", timeout=5).text
    assert requests.get(server.url + "/metrics", timeout=5).status_code == 404
    assert requests.get(health + "/v1/messages", timeout=5).status_code == 404
    assert requests.get(server.url + "/v1/messages", timeout=5).status_code == 401


def _answers(url):
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def test_https(postchute, sink, ca):
    certificate = ca.issue(["localhost", "127.0.0.1"])
    server = postchute(start=False, route=route(sink), tls_cert=certificate.cert, tls_key=certificate.key)
    server.url = server.url.replace("http:", "https:")
    bundle = str(ca.directory / "ca.pem")
    server.ready = lambda: requests_get(server.url + "/readyz", bundle)
    server.start()
    answer = requests.post(server.url + "/send", json=GOOD, verify=bundle, timeout=10,
                           headers={"Authorization": f"Bearer {server.admin_key}", "Prefer": "wait=5"})  # fmt: skip
    assert answer.status_code == 200 and answer.json()["state"] == "delivered"
    plain = socket.create_connection(("127.0.0.1", int(server.address.split(":")[1])), timeout=5)
    plain.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" not in plain.recv(100)


@pytest.mark.parametrize("piped", ["tls_cert", "tls_key"])
def test_the_certificate_and_key_of_https_may_come_through_a_pipe_which_is_read_once(postchute, ca, piped):
    certificate = ca.issue(["localhost", "127.0.0.1"])
    server = postchute(start=False, route="sandbox", tls_cert=certificate.cert, tls_key=certificate.key)
    text = server.settings[piped].read_bytes()
    server.settings[piped] = server.dir / "pipe"
    os.mkfifo(server.settings[piped], 0o600)
    server.url = server.url.replace("http:", "https:")
    server.ready = lambda: requests_get(server.url + "/readyz", str(ca.directory / "ca.pem"))
    writer = threading.Thread(target=lambda: server.settings[piped].write_bytes(text), daemon=True)
    writer.start()
    server.start()
    writer.join(10)
    assert not writer.is_alive()


def requests_get(url, bundle):
    try:
        return requests.get(url, verify=bundle, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def test_several_listeners_and_ipv6(postchute, sink):
    server = postchute(start=False, route=route(sink))
    server.settings["listen"] = f"{server.address},[::1]:18997"
    server.start()
    assert requests.get("http://[::1]:18997/livez", timeout=5).status_code == 200


def test_a_supervisor_is_told(postchute, sink):
    server = postchute(start=False, route=route(sink))
    path = server.dir / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(path))
        supervisor.settimeout(10)
        environment = server.environment
        server.environment = lambda: {**environment(), "NOTIFY_SOCKET": str(path)}
        server.start()
        assert b"READY=1" in supervisor.recv(200)
        server.reload()
        assert b"RELOADING=1" in supervisor.recv(200) and b"READY=1" in supervisor.recv(200)
        server.stop()
        assert b"STOPPING=1" in supervisor.recv(200)


def test_T22_T23_the_log_is_one_json_object_a_line_and_tells_no_secrets(postchute, sink):
    server = postchute(route=route(sink))
    server.deliver(**{**GOOD, "subject": "secret subject", "text": "secret text\x7f \u2028", "tags": ["t"]})
    server.api().get("/v1/messages/%0a%1b[31m")
    for line in server.log().splitlines():
        record = json.loads(line)
        assert {"ts", "level", "room", "msg"} <= set(record)
    assert "secret" not in server.log() and server.admin_key not in server.log() and "b@far.test" not in server.log()



"""The command line, as scripts and operators use it: against a running server, and without one."""

import email
import email.policy
import json
import re
import socket
import subprocess
import time
from urllib.parse import quote

import pytest

from peers.hostile import HostileSMTP
from peers.postchute import Postchute
from peers.postfix import Postfix
from peers.process import scratch, wait_until
from peers.sink import Sink

GOOD = ["--from", "Ann <ann@acme.test>", "--to", "b@far.test", "--subject", "Build 17", "--text", "All green."]
UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$")


@pytest.fixture(scope="module")
def sink():
    def answer(session, argument):
        return next((reply for local, reply in (("gone", "550 5.1.1 no such user"), ("later", "451 4.3.0 later")) if f"<{local}" in argument), None)

    with Sink("11.22.8.1", on={"RCPT": answer}) as sink:
        yield sink


@pytest.fixture(scope="module")
def server(_tree, sink):
    server = Postchute(route=f"smtp://{sink.address}?tls=none", retry_after="60s")
    server.start()
    yield server
    server.stop()


def run(server, *arguments, key=None, env=None, **options):
    """A user's shell: only the address and the key of the server are known there."""
    environment = {"PATH": "/usr/bin:/bin", "POSTCHUTE_URL": server.url, "POSTCHUTE_KEY": key or server.admin_key, **(env or {})}
    environment = {name: value for name, value in environment.items() if value is not None}
    options.setdefault("timeout", 60)
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run([server.binary(), *map(str, arguments)], env=environment, capture_output=True, text=True, **options)


# ---- send -------------------------------------------------------------------------------------------------------------


def test_send_prints_the_id_and_ends_with_0(server, sink):
    done = run(server, "send", *GOOD)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert UUID.match(done.stdout.strip())
    assert server.wait_final(done.stdout.strip())["state"] == "delivered"


def test_send_waits_for_the_delivery(server, sink):
    done = run(server, "send", *GOOD, "--wait=20")
    assert done.returncode == 0 and done.stderr == ""
    assert server.message(done.stdout.strip())["state"] == "delivered"


def test_send_carries_everything(server, sink, tmp_path):
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4 \x00\xff" * 1000)
    (tmp_path / "data.csv").write_text("a;b\n1;2\n")
    (tmp_path / "body.html").write_text("<p>Grüße</p>")
    done = run(
        server, "send", "--from", "ann@acme.test", "--to", "all@far.test", "--to", "Bob <bob@far.test>", "--cc", "cc@far.test",
        "--bcc", "blind@far.test", "--reply-to", "help@acme.test", "-s", "Grüße", "--text-file", "-", "--html-file", tmp_path / "body.html",
        "-a", tmp_path / "report.pdf", "--attach", f"{tmp_path}/data.csv:text/plain", "-H", "X-Build: 17", "--tag", "ci", "--tag", "green",
        "--metadata", "build=17", "--external-id", "b-17", "--expires-in", "3600", "--wait", "--json", input="piped text\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["state"] == "delivered" and answer["tags"] == ["ci", "green"] and answer["metadata"] == {"build": "17"}
    assert answer["external_id"] == "b-17"
    (got,) = sink.wait(1, where=lambda message: "all@far.test" in message.rcpts)
    assert sorted(got.rcpts) == ["all@far.test", "blind@far.test", "bob@far.test", "cc@far.test"]
    parsed = email.message_from_bytes(got.data, policy=email.policy.default)
    assert parsed["subject"] == "Grüße" and parsed["to"] == "all@far.test, Bob <bob@far.test>" and parsed["cc"] == "cc@far.test"
    assert parsed["reply-to"] == "help@acme.test" and parsed["x-build"] == "17" and parsed["bcc"] is None
    assert parsed.get_body("plain").get_content().splitlines() == ["piped text"]
    assert parsed.get_body("html").get_content().strip() == "<p>Grüße</p>"
    pdf, csv = parsed.iter_attachments()
    assert pdf.get_filename() == "report.pdf" and pdf.get_content_type() == "application/pdf"
    assert pdf.get_content() == b"%PDF-1.4 \x00\xff" * 1000
    assert csv.get_filename() == "data.csv" and csv.get_content_type() == "text/plain" and csv.get_content().split() == ["a;b", "1;2"]


def test_send_takes_json_from_a_file_and_from_standard_input(server, sink, tmp_path):
    message = {"from": "ann@acme.test", "to": "json@far.test", "subject": "from JSON", "text": "t"}
    (tmp_path / "message.json").write_text(json.dumps(message))
    done = run(server, "send", "--file", tmp_path / "message.json", "--subject", "instead", "--wait")
    assert done.returncode == 0, done.stderr
    assert server.message(done.stdout.strip())["subject"] == "instead"
    done = run(server, "send", "-", "--wait", input=json.dumps(message))
    assert done.returncode == 0, done.stderr
    assert server.message(done.stdout.strip())["subject"] == "from JSON"


def test_refused_is_1_and_names_the_fault(server):
    done = run(server, "send", "--from", "ann@acme.test", "--to", "nobody", "--subject", "x", "--text", "t")
    assert done.returncode == 1 and done.stdout == "" and "to" in done.stderr and "@" in done.stderr, done.stderr
    for key in ("pc_live_" + "a" * 47, "nonsense"):
        done = run(server, "send", *GOOD, key=key)
        assert done.returncode == 1 and done.stdout == "" and "key" in done.stderr.lower(), done.stderr


def test_an_undelivered_recipient_is_2(server):
    done = run(server, "send", *GOOD, "--to", "gone@far.test", "--wait=20")
    assert done.returncode == 2 and UUID.match(done.stdout.strip())
    assert re.search(r"gone@far\.test: bounced: 550 .*no such user", done.stderr), done.stderr
    assert "b@far.test" not in done.stderr


def test_nobody_there_is_3(server):
    done = run(server, "send", *GOOD, "--tries", "1", env={"POSTCHUTE_URL": "http://127.0.0.1:9"})
    assert done.returncode == 3 and "127.0.0.1" in done.stderr and done.stdout == "", done.stderr
    done = run(server, "send", *GOOD, "--tries", "1", env={"POSTCHUTE_URL": "http://no.such.host.invalid"})
    assert done.returncode == 3, done.stderr


def test_not_final_in_time_is_4(server):
    begun = time.monotonic()
    done = run(server, "send", "--from", "a@acme.test", "--to", "later@far.test", "--subject", "x", "--text", "t", "--wait=1")
    assert done.returncode == 4 and time.monotonic() - begun < 5
    assert "later@far.test: deferred: 451" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["send", "--too", "x"], ["send", *GOOD, "--wait=soon"], ["send", *GOOD, "--attach", "/no/such/file"], ["send", "--from"],
     ["send", *GOOD, "--file", "/no/such/file.json"], ["send", *GOOD, "extra"], ["nonsense"], ["domain", "add"],
     ["send", *GOOD, "--header", "no colon"], ["send", *GOOD, "--metadata", "novalue"], ["doctor", "--timeout", "x"]],
)  # fmt: skip
def test_wrong_usage_is_64(server, arguments):
    done = run(server, *arguments)
    assert done.returncode == 64, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith(("postchute", "usage")) and done.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["key"], ["domain"]])
def test_half_a_command_shows_what_there_is(server, arguments):
    done = run(server, *arguments)
    assert done.returncode == 64 and "usage: postchute" in done.stdout


def test_no_key_is_64(server, tmp_path):
    done = run(server, "send", *GOOD, env={"POSTCHUTE_KEY": None}, cwd=tmp_path)
    assert done.returncode == 64 and "POSTCHUTE_KEY" in done.stderr


def test_the_key_can_be_in_a_file(server, tmp_path):
    (tmp_path / "k").write_text(server.admin_key + "\n")
    assert run(server, "send", *GOOD, "--key-file", tmp_path / "k", env={"POSTCHUTE_KEY": None}).returncode == 0


def test_an_idempotency_key_sends_once(server, sink):
    arguments = ["send", *GOOD[:2], "--to", "idem@far.test", *GOOD[4:], "--idempotency-key", "deploy-17", "--wait"]
    first, second = run(server, *arguments), run(server, *arguments)
    assert first.returncode == second.returncode == 0 and first.stdout == second.stdout
    assert len([message for message in sink.ledger if message.rcpts == ["idem@far.test"]]) == 1


def test_send_tries_again_while_the_server_starts(server, postchute, sink):
    """A pipeline that starts both at once."""
    late = postchute(start=False, route=f"smtp://{sink.address}?tls=none")
    late.write_declared()
    sending = subprocess.Popen(
        [late.binary(), "send", *GOOD, "--wait=20", "--tries", "10"], env={"POSTCHUTE_URL": late.url, "POSTCHUTE_KEY": late.admin_key},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(0.4)  # so that at least one try is in vain
    late.start()
    out, err = sending.communicate(timeout=30)
    assert sending.returncode == 0, err
    assert late.message(out.strip())["state"] == "delivered"


# ---- keys and domains, with a server and without ------------------------------------------------------------------------


@pytest.fixture(params=["running", "stopped"])
def either(request, postchute, sink):
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none")
    server.write_declared()
    if request.param == "running":
        server.start()

    def up():
        return server if server.process else server.start()

    server.up = up
    return server


def test_keys_are_made_listed_and_revoked(either):
    made = either.command("key", "create", "shop", "--scope", "send", "--from-domain", "acme.test")
    assert made.returncode == 0, made.stderr
    key = re.search(r"^pc_live_\w+$", made.stdout, re.M).group(0)
    other = json.loads(either.command("key", "create", "ci", "--test", "-s", "read", "--json").stdout)
    assert other["key"].startswith("pc_test_") and other["scopes"] == ["read"] and other["test"]
    listed = either.command("key", "list")
    assert listed.returncode == 0 and "shop" in listed.stdout and "ci" in listed.stdout and key not in listed.stdout
    entry = next(one for one in json.loads(either.command("key", "list", "--json").stdout)["data"] if one["name"] == "shop")
    up = either.up()
    message = {"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"}
    assert up.api(key).post("/send", json=message).status_code == 202
    assert up.api(key).post("/send", json={**message, "from": "a@other.test"}).status_code == 403
    revoked = up.command("key", "revoke", entry["id"])
    assert revoked.returncode == 0, revoked.stderr
    assert up.api(key).post("/send", json=message).status_code == 401
    again = up.command("key", "revoke", "01934d7e-6f00-7a3b-8c1d-0242ac120002")
    assert again.returncode == 1 and again.stderr


def test_domains_are_added_shown_and_removed(either):
    added = either.command("domain", "add", "New.test", "--bounce-address", "bounces@new.test")
    assert added.returncode == 0, added.stderr
    assert re.search(r"name: +pc\d{6}r\._domainkey\.new\.test\n +type: +TXT\n +value: v=DKIM1; k=rsa; p=", added.stdout), added.stdout
    zone = either.command("domain", "dns", "new.test", "--zone").stdout
    assert re.search(r'^pc\d{6}e\._domainkey\.new\.test\. 3600 IN TXT \( "v=DKIM1; k=ed25519; p=[^"]+" \)$', zone, re.M), zone
    assert all(len(text) <= 255 for text in re.findall(r'"([^"]*)"', zone))
    twice = either.command("domain", "add", "new.test")
    assert twice.returncode == 1 and "already" in twice.stderr
    assert "not verified" in next(line for line in either.command("domain", "list").stdout.splitlines() if line.startswith("new.test"))
    bad = either.command("domain", "add", "not a domain")
    assert bad.returncode == 1 and bad.stderr.startswith("postchute")
    up = either.up()
    up.deliver(**{"from": "a@new.test", "to": "b@far.test", "subject": "s", "text": "t"})
    assert up.command("domain", "delete", "new.test").returncode == 0
    assert up.api().get("/v1/domains/new.test").status_code == 404
    assert up.command("domain", "dns", "new.test").returncode == 1


def test_commands_want_the_right_to_the_store(server):
    environment = {**server.environment(), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([server.binary(), "key", "list"], env=environment, capture_output=True, text=True, user="nobody",
                          group="nogroup", extra_groups=[], timeout=20)  # fmt: skip
    assert done.returncode == 1 and "ermission" in done.stderr, done.stderr


# ---- check-config, doctor -----------------------------------------------------------------------------------------------


def test_check_config(server):
    done = server.command("check-config")
    assert done.returncode == 0 and done.stdout.startswith("ok"), done.stderr
    server.settings["max_recipients"] = "many"
    try:
        done = server.command("check-config")
        assert done.returncode == 1 and "POSTCHUTE_MAX_RECIPIENTS" in done.stderr
    finally:
        del server.settings["max_recipients"]


def lines(done):
    """What doctor said, by subject."""
    found = {}
    for sign, what, text in re.findall(r"^(ok|look|BAD)\s+(\S+)\s+(.*)$", done.stdout, re.M):
        found.setdefault(what, []).append((sign, text))
    return found


def test_doctor_of_a_good_installation(postchute, _tree, ca):
    tree = _tree
    tree.zone("doc.org", "mail A 11.22.8.5\n@ MX 10 mx\nmx A 11.22.8.6", reload=False)
    server = postchute(start=False, hostname="mail.doc.org", route="mx", dns=tree.resolver, dns_trust_anchor=tree.dir / "root.key")
    server.declared = None
    added = server.command("domain", "add", "doc.org", "--zone")
    tree.zone("doc.org", "mail A 11.22.8.5\n@ MX 10 mx\nmx A 11.22.8.6\n" + added.stdout, reload=False)
    tree.zone("22.11.in-addr.arpa", "5.8 PTR mail.doc.org.", reload=False)
    tree.reload()
    with Postfix("11.22.8.6", "mx.doc.org", ["doc.org"], ca.issue("mx.doc.org")):
        for start in (False, True):
            if start:
                server.start()
            done = server.command("doctor", "--mx-domain", "doc.org", timeout=60)
            said = lines(done)
            assert done.returncode == 0, done.stdout
            assert not [text for entries in said.values() for sign, text in entries if sign == "BAD"]
            assert ("ok", "recursive; DNSSEC: answers are validated") in said["dns"] or any(
                sign == "ok" and "validated" in text for sign, text in said["dns"]), said
            assert {"settings", "store", "disk", "listen", "dns"} <= set(said)
            assert re.search(r"doc\.org", done.stdout) and re.search(r"^ok\s+\S+.*(mx\.doc\.org|11\.22\.8\.6|port 25)", done.stdout, re.M), done.stdout


def test_doctor_finds_what_is_wrong(postchute, _tree):
    tree = _tree
    tree.zone("ill.org", "@ MX 10 mx\nmx A 11.22.8.77\n")
    server = postchute(start=False, hostname="mail.ill.org", route="mx", dns=tree.resolver, dns_trust_anchor=tree.dir / "root.key",
                       disk_floor="900GiB")  # fmt: skip
    server.declared = None
    assert server.command("domain", "add", "ill.org").returncode == 0
    with socket.socket() as taken:
        host, port = server.address.split(":")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, int(port)))
        taken.listen()
        done = server.command("doctor", "--mx-domain", "ill.org", "--timeout", "2", timeout=60)
    assert done.returncode == 1
    bad = "\n".join(f"{what}: {text}" for what, entries in lines(done).items() for sign, text in entries if sign == "BAD")
    for what in ("disk", "listen", "mail.ill.org", "_domainkey.ill.org"):
        assert what in bad, f"{what} is not among\n{done.stdout}"
    assert re.search(r"^(BAD|look)\s.*(11\.22\.8\.77|mx\.ill\.org|port 25)", done.stdout, re.M), done.stdout
    assert "->" in done.stdout  # what mends it


def test_doctor_knows_where_no_data_folder_can_be_made(server):
    roots = scratch("roots")
    roots.chmod(0o755)
    for parent, why in ((roots, "Permission denied"), ("/etc", "Read-only file system")):
        environment = {"PATH": "/usr/bin:/bin", "POSTCHUTE_ROUTE": "sandbox", "POSTCHUTE_LISTEN": "127.0.0.1:0", "POSTCHUTE_DATA": f"{parent}/new"}
        done = subprocess.run([server.binary(), "doctor", "--offline"], env=environment, capture_output=True, text=True, user="nobody",
                              group="nogroup", extra_groups=[], timeout=20)  # fmt: skip
        assert done.returncode == 1 and "-> let the server's user write there" in done.stdout
        assert lines(done)["disk"] == [("BAD", f"{parent}/new cannot be made in {parent}: {why}")], done.stdout


def test_doctor_tries_the_smarthosts(postchute, ca, cleanly):
    def wrong(talk):
        talk.send("554 not you\r\n")
        talk.until_closed()

    certificate = ca.issue("11.22.8.10")
    good = cleanly(Sink("11.22.8.10", certificate=certificate, users={"u": "p"}))
    cleanly(HostileSMTP("11.22.8.11", wrong))
    plain = cleanly(Sink("11.22.8.13"))
    open_to_all = cleanly(Sink("11.22.8.14", certificate=ca.issue("11.22.8.14")))
    at = f"{good.address}:25"
    other = ca.issue("elsewhere.test").pin()
    for url, sign, says in (
        (f"smtp://u:p@{at}", "ok", "ready over TLSv1.3, verified; takes our login"),
        (f"smtp://u:p@{at}?pin={quote(certificate.pin())}", "ok", "ready over TLSv1.3, verified; takes our login"),
        (f"smtp://{plain.address}", "ok", "ready, in clear"),
        (f"smtp://u:hunter2@{at}", "BAD", "auth: 535"),
        (f"smtp://u:p@{open_to_all.address}:25", "BAD", "auth: the server offers neither PLAIN nor LOGIN"),
        (f"smtp://u:p@{at}?pin={quote(other)}", "BAD", "tls: "),
        (f"smtp://u:p@{at}?ca=/etc/ssl/certs/ca-certificates.crt&pin={quote(other)}", "BAD", "tls: "),
        (f"smtp://u:p@{plain.address}:25", "BAD", "ehlo: the server does not offer TLS"),
        ("smtp://11.22.8.11", "BAD", "greeting: 554 not you"),
        ("smtp://11.22.8.12", "BAD", "connect: "),
        ("smtp://no-such-host.test", "BAD", "resolve: "),
    ):
        server = postchute(start=False, route=url, ca_file=ca.directory / "ca.pem")
        server.declared = None
        done = server.command("doctor", "--timeout", "2", timeout=60)
        (line,) = [line for line in done.stdout.splitlines() if re.match(r"\w+ +smarthost ", line)]
        assert line.startswith(sign) and says in line, (url, line)
        assert "hunter2" not in done.stdout + done.stderr
        assert ("correct user and password" in done.stdout) == ("auth: 535" in line)
        assert ("is it the port for submissions?" in done.stdout) == ("neither" in line)
        assert sign == "ok" or done.returncode == 1
    assert not good.ledger and not plain.ledger  # nothing is sent


def test_doctor_live_is_a_health_check(server):
    done = server.command("doctor", "--live")
    assert done.returncode == 0 and len(done.stdout.splitlines()) <= 1, done.stdout
    elsewhere = Postchute(route="sandbox")
    begun = time.monotonic()
    assert elsewhere.command("doctor", "--live").returncode == 1 and time.monotonic() - begun < 4


def test_version_and_help(server):
    assert re.match(r"postchute \d+\.\d+\.\d+", run(server, "version").stdout)
    helped = run(server, "help", "settings").stdout
    assert "POSTCHUTE_RETRY_AFTER" in helped
    for command in ("serve", "send", "doctor", "domain add", "key create", "check-config"):
        done = run(server, *command.split(), "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: postchute {command}")
    assert wait_until(lambda: run(server, "help").returncode == 0, "help")

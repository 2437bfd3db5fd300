"""Through a smarthost: a real Postfix that wants AUTH over TLS; several of them with weights and priorities; names from the
hosts file; a resolver that strips DNSSEC."""

import base64
import json
import pathlib
import re

import pytest
from cryptography.hazmat.primitives import serialization

from peers.certs import Authority
from peers.postchute import Postchute
from peers.postfix import Postfix
from peers.process import check, scratch, wait_until
from peers.sink import Sink
from peers.verify import dkim_verify

RELAY = "11.22.1.90"


@pytest.fixture(scope="module")
def relay(ca):
    certificate = ca.issue(["relay.acme.test", RELAY])
    users = {"ann": "s3cret", "odd user": "p@ss:w/%?#"}
    with Postfix(RELAY, "relay.acme.test", certificate=certificate, users=users) as relay:
        yield relay


@pytest.fixture(scope="module")
def stranger():
    """An authority that nobody trusts."""
    return Authority.new(scratch("stranger"), "a stranger")


@pytest.fixture(scope="module")
def server(_tree, relay, ca, stranger):
    """One server with a route for each way to reach the smarthost."""
    server = Postchute(route="sandbox", retry_after="30s")
    ways = {
        "starttls": f"smtp://ann:s3cret@{RELAY}:587?ca={ca.directory}/ca.pem",
        "implicit": f"smtps://ann:s3cret@{RELAY}:465?ca={ca.directory}/ca.pem",
        "escaped": f"smtp://odd%20user:p%40ss%3Aw%2F%25%3F%23@{RELAY}:587?ca={ca.directory}/ca.pem",
        "systems-ca": f"smtp://ann:s3cret@{RELAY}:587",
        "wrong-password": f"smtp://ann:hunter2-{'x' * 12}@{RELAY}:587?ca={ca.directory}/ca.pem",
        "wrong-ca": f"smtp://ann:s3cret@{RELAY}:587?ca={stranger.directory}/ca.pem",
        "wrong-port": f"smtp://ann:s3cret@{RELAY}:588?ca={ca.directory}/ca.pem",
        "no-credentials": f"smtp://{RELAY}:587?tls=verify&ca={ca.directory}/ca.pem",
    }
    server.declared["routes"] = [{"name": name, "smarthosts": [url]} for name, url in ways.items()]
    server.start()
    yield server
    server.stop()


def mail(to, **more):
    return {"from": "Ann <ann@acme.test>", "to": to, "subject": "relayed", "text": "Hello", **more}


def refusal_of(server, message_id):
    seen = server.wait_state(message_id, "deferred")
    return seen["recipients"][0]["refusal"]


@pytest.mark.parametrize("route", ["starttls", "implicit", "escaped", "systems-ca"])
def test_mail_goes_through_with_authentication(server, relay, route):
    seen = server.deliver(**mail(f"{route}@far.test", route=route))
    (stored,) = relay.wait_mail(f"{route}@far.test")
    head = stored.partition(b"\n\n")[0]
    assert b"using TLSv1.3" in head
    assert server.attempts(seen["id"])[0]["tls"]["verified"]
    user = "odd user" if route == "escaped" else "ann"
    assert re.search(rf"sasl_method=\S+, sasl_username={user}@relay\.acme\.test", relay.log())
    # smarthosts are given signed mail, too
    sent = stored[stored.index(b"DKIM-Signature:"):]
    dkim = server.api().get("/v1/domains/acme.test").json()["records"]
    dkim_verify(sent, {record["name"]: record["value"] for record in dkim if record["purpose"] == "dkim"})


def test_recipients_of_many_domains_share_a_transaction(server, relay):
    to = [f"shared@{name}.test" for name in ("one", "two", "three")]
    seen = server.deliver(**mail(to, route="starttls"))
    (attempt,) = server.attempts(seen["id"])
    assert [one["email"] for one in attempt["recipients"]] == to
    for one in to:
        relay.wait_mail(one)


def test_a_bcc_that_needs_SMTPUTF8_bounces_alone(postchute):
    with Sink("11.22.1.105", extensions=["PIPELINING", "8BITMIME"]) as sink:
        server = postchute(route=f"smtp://{sink.address}?tls=none")
        seen = server.wait_final(server.send(**mail("ann@far.test", bcc="jürgen@far.test"))["id"])
        assert {one["email"]: one["state"] for one in seen["recipients"]} == {"ann@far.test": "delivered", "jürgen@far.test": "bounced"}
        (message,) = sink.ledger
        assert message.rcpts == ["ann@far.test"] and "SMTPUTF8" not in message.mail_parameters


def test_a_wrong_password_defers_and_pauses_the_route(server, relay):
    server.expect_log("the smarthost refuses our credentials, route paused")
    message = server.send(**mail("wrong-password@far.test", route="wrong-password"))["id"]
    refusal = refusal_of(server, message)
    assert refusal["stage"] == "auth" and refusal["code"] == 535 and not refusal["hard"]
    assert refusal["scope"] == "infrastructure" and refusal["class"] == "authentication"
    wait_until(lambda: "authentication failed" in relay.log(), "the failed login in the smarthost's log")
    assert relay.mails("wrong-password@far.test") == []
    # what was said is kept, but not the password
    (attempt,) = server.attempts(message)
    told = json.dumps(attempt) + json.dumps(server.message(message)) + server.log()
    assert "C: (AUTH PLAIN, secret left out)" in told and "hunter2" not in told
    assert not any(base64.b64encode(start + b"hunter2-")[:-4].decode() in told for start in (b"\0ann\0", b""))
    # TLS was up by then, and is shown
    assert attempt["tls"]["version"] == "TLSv1.3" and attempt["tls"]["verified"]
    # the next message waits, instead of counting one more failed login
    failed = relay.log().count("authentication failed")
    later = server.send(**mail("later-wrong@far.test", route="wrong-password"))["id"]
    server.deliver(**mail("meanwhile@far.test", route="starttls"))  # other routes go on
    assert server.message(later)["recipients"][0]["state"] == "queued" and server.attempts(later) == []
    assert relay.log().count("authentication failed") == failed


@pytest.mark.parametrize("told", ["{0}", "cGFzcw0K aHVudGVyMg== hunter2", "hunte, or what"])
def test_T23_a_smarthost_that_repeats_the_password_is_not_quoted(postchute, told):
    with Sink("127.0.0.9", on={"AUTH": lambda session, argument: "535 5.7.8 I do not know " + told.format(argument)}, users={"ann": "other"}) as sink:
        server = postchute(route=f"smtp://ann:hunter2@{sink.address}:{sink.port}?tls=none&insecure_auth=1")
        server.expect_log("the smarthost refuses our credentials, route paused")
        message = server.send(**mail("echo@far.test"))["id"]
        assert refusal_of(server, message)["text"] == "(left out: it repeats what was sent)"
        shown = json.dumps(server.attempts(message)) + json.dumps(server.message(message)) + server.log()
        assert "(left out: it repeats what was sent)" in shown
        secrets = ["hunte", base64.b64encode(b"hunter2").decode(), base64.b64encode(b"\0ann\0hunter2").decode()]
        assert not any(secret in shown for secret in secrets)


@pytest.mark.parametrize("told", ["", "{0}"])
def test_a_login_that_comes_too_often_waits_as_it_says_whatever_is_repeated(postchute, told):
    with Sink("127.0.0.9", on={"AUTH": lambda session, argument: "535 too many messages, slow down " + told.format(argument)}, users={"ann": "other"}) as sink:
        server = postchute(route=f"smtp://ann:hunter2@{sink.address}:{sink.port}?tls=none&insecure_auth=1")
        message = server.send(**mail("often@far.test"))["id"]
        assert refusal_of(server, message)["class"] == "rate_limited"
        assert "refuses our credentials" not in server.log()


def test_T7_a_certificate_of_another_authority_gets_nothing(server, relay):
    message = server.send(**mail("wrong-ca@far.test", route="wrong-ca"))["id"]
    refusal = refusal_of(server, message)
    assert refusal["class"] == "tls" and refusal["stage"] == "tls", refusal
    transcript = server.attempts(message)[0]["transcript"]
    assert "C: STARTTLS" in transcript and "AUTH" not in transcript.split("C: STARTTLS")[1] and "MAIL FROM" not in transcript
    assert relay.mails("wrong-ca@far.test") == []


def test_nobody_listening_defers(server):
    refusal = refusal_of(server, server.send(**mail("x@far.test", route="wrong-port"))["id"])
    assert refusal["class"] == "network" and refusal["stage"] == "connect"


def test_a_smarthost_that_wants_authentication_says_so(server):
    seen = server.wait_state(
        server.send(**mail("x@far.test", route="no-credentials"))["id"], lambda state: state in ("deferred", "bounced")
    )
    assert seen["recipients"][0]["refusal"]["code"] == 554


def test_an_unknown_route_is_refused(server):
    answer = server.api().post("/v1/messages", json=mail("x@far.test", route="nowhere"))
    assert answer.status_code == 422 and answer.json()["errors"][0]["code"] == "route_unknown"


@pytest.mark.parametrize(
    "url, says",
    [("smtp://ann:s3cret@11.22.1.90:587?tls=encrypt", "verif"),  # credentials over less than verified TLS
     ("smtp://ann:s3cret@11.22.1.90:587?tls=none&insecure_auth=1", "private"),  # and not to a public address
     ("smtp://11.22.1.90?pin=sha256:abc", "pin"), ("smtp://11.22.1.90?tls=opportunistic&pin=sha256:" + "0" * 64, "tls=verify"),
     ("smtp://11.22.1.90:99999", "port"), ("http://11.22.1.90", "smtp"), ("smtp://11.22.1.90?ca=/nowhere.pem", "nowhere")],
)  # fmt: skip
def test_a_bad_smarthost_stops_the_start_without_its_password(postchute, url, says):
    server = postchute(start=False, route=url)
    server.write_declared()
    done = server.command("serve")
    assert done.returncode == 1 and says in done.stderr.lower(), done.stderr
    assert "s3cret" not in done.stderr + done.stdout
    assert len([line for line in done.stderr.splitlines() if line.startswith("postchute: ")]) == 1


# ---- a pinned key ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pinned(stranger):
    """A real Postfix whose certificate nobody's authority stands for, and whose name is another."""
    certificate = stranger.issue("mx.elsewhere.test")
    with Postfix("11.22.1.89", "pinned.acme.test", certificate=certificate, users={"ann": "s3cret"}) as relay:
        relay.pin = certificate.pin()
        relay.hexpin = "sha256:" + certificate.tlsa().split()[-1].upper()
        yield relay


@pytest.fixture(scope="module")
def pin_server(pinned, relay, ca):
    server = Postchute(route="sandbox", retry_after="30s", ca_file=ca.directory / "ca.pem")
    wrong = "sha256:" + "A" * 43 + "="
    at, trusted = "ann:s3cret@11.22.1.89", f"ann:s3cret@{RELAY}"
    ways = {
        "right": f"smtp://{at}:587?pin={pinned.pin}",
        "right-hex": f"smtp://{at}:587?tls=encrypt&pin={pinned.hexpin}",
        "right-implicit": f"smtps://{at}:465?pin={pinned.pin}",
        "one-of-two": f"smtp://{at}:587?pin={wrong},{pinned.pin}",
        "and-verified": f"smtp://{trusted}:587?tls=verify&pin={relay.certificate.pin()}",
        "wrong": f"smtp://{at}:587?pin={wrong}",
        "wrong-implicit": f"smtps://{at}:465?pin={wrong}",
        "verified-but-wrong": f"smtp://{trusted}:587?tls=verify&pin={wrong}",
        "right-but-not-verified": f"smtp://{at}:587?tls=verify&pin={pinned.pin}",
    }
    server.declared["routes"] = [{"name": name, "smarthosts": [url]} for name, url in ways.items()]
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("route", ["right", "right-hex", "right-implicit", "one-of-two", "and-verified"])
def test_a_pinned_key_authenticates_the_smarthost(pin_server, pinned, relay, route):
    # also for a message that wants a verified peer
    seen = pin_server.deliver(**mail(f"{route}@far.test", route=route, tls="verify"))
    (relay if route == "and-verified" else pinned).wait_mail(f"{route}@far.test")
    assert pin_server.attempts(seen["id"])[0]["tls"]["verified"]


@pytest.mark.parametrize(
    "route, says",
    [("wrong", "the server's key is not the one that is pinned"), ("wrong-implicit", "the server's key is not the one that is pinned"),
     ("verified-but-wrong", "the server's key is not the one that is pinned"), ("right-but-not-verified", "certificate: ")],
)  # fmt: skip
def test_T7_another_key_than_the_pinned_one_gets_nothing(pin_server, pinned, relay, route, says):
    message = pin_server.send(**mail(f"{route}@far.test", route=route))["id"]
    refusal = refusal_of(pin_server, message)
    assert refusal["class"] == "tls" and refusal["stage"] == "tls" and says in refusal["text"], refusal
    if "pinned" in says:  # what it showed can be compared, or pasted after a change of the key
        shown = (relay.certificate if "verified" in route else pinned.certificate).pin()
        assert refusal["text"].endswith(shown)
    transcript = pin_server.attempts(message)[0]["transcript"]
    assert "(AUTH" not in transcript and "MAIL FROM" not in transcript
    assert pinned.mails(f"{route}@far.test") + relay.mails(f"{route}@far.test") == []


# ---- several smarthosts ---------------------------------------------------------------------------------------------


def test_weights_share_the_load_and_priorities_stand_by(postchute, cleanly):
    heavy, light, spare = (cleanly(Sink(f"11.22.1.{n}", f"s{n}.test")) for n in (91, 92, 93))
    server = postchute(start=False, route="sandbox", retry_after="200ms")
    server.declared["routes"] = [{"name": "pool", "smarthosts": [
        f"smtp://{heavy.address}?weight=4&tls=none", f"smtp://{light.address}?weight=1&tls=none",
        f"smtp://{spare.address}?priority=2&tls=none"]}]  # fmt: skip
    server.start()
    ids = [server.send(**mail(f"w{n}@far.test", route="pool"))["id"] for n in range(150)]
    for one in ids:
        server.wait_state(one, "delivered")
    assert len(heavy.ledger) + len(light.ledger) == 150 and not spare.ledger
    assert len(heavy.ledger) > len(light.ledger) > 0
    # both go away: mail goes to the one behind them, at once and without a failed attempt to show for it
    heavy.stop()
    light.stop()
    for n in range(10):
        seen = server.deliver(**mail(f"spare{n}@far.test", route="pool"))
        assert seen["recipients"][0]["smtp"]["mx"] == spare.address
    assert len(spare.ledger) == 10


def test_rules_choose_the_route(postchute, cleanly):
    one, other, usual = (cleanly(Sink(f"11.22.1.{n}", f"s{n}.test")) for n in (94, 95, 96))
    server = postchute(start=False, route=f"smtp://{usual.address}?tls=none")
    server.declared["domains"].append({"name": "shop.test", "dkim": server.declared["domains"][0]["dkim"]})
    server.declared["routes"] = [
        {"name": "by-recipient", "smarthosts": [f"smtp://{one.address}?tls=none"], "recipient_domains": ["far.test", "*.far.test"]},
        {"name": "by-sender", "smarthosts": [f"smtp://{other.address}?tls=none"], "sender_domains": ["shop.test"]},
    ]  # fmt: skip
    server.start()
    seen = server.deliver(**mail(["a@far.test", "b@sub.far.test", "c@near.test"]))
    assert len(server.attempts(seen["id"])) == 2
    server.deliver(**mail("d@near.test", **{"from": "x@shop.test"}))
    assert [sorted(sum((message.rcpts for message in sink.ledger), [])) for sink in (one, other, usual)] == [
        ["a@far.test", "b@sub.far.test"], ["d@near.test"], ["c@near.test"]]  # fmt: skip


# ---- a smarthost that refuses our login ------------------------------------------------------------------------------


def logins(sink):
    return sum(verb == "AUTH" for session in sink.sessions for verb, _ in session.commands)


def test_a_paused_route_goes_on_when_the_password_is_mended(postchute, cleanly, ca):
    sink = cleanly(Sink("11.22.1.100", "relay.acme.test", certificate=ca.issue(["11.22.1.100"]), users={"u": "new"}))
    server = postchute(start=False, route="sandbox", ca_file=ca.directory / "ca.pem", retry_after="300ms", delivery_threads=1)
    server.declared["routes"] = [{"name": "relay", "smarthosts": ["smtp://u:old@11.22.1.100:25"]}]
    server.expect_log("the smarthost refuses our credentials, route paused")
    server.start()
    ids = [server.send(**mail("first@far.test", route="relay"))["id"]]
    server.wait_log("the smarthost refuses our credentials, route paused")
    ids += [server.send(**mail(f"w{n}@far.test", route="relay"))["id"] for n in range(20)]
    server.deliver(**mail("meanwhile@far.test"))
    assert logins(sink) == 1 and not sink.ledger
    assert server.metric("postchute_delivery_logins_refused_total") == 1
    server.declared["routes"][0]["smarthosts"] = ["smtp://u:new@11.22.1.100:25"]
    server.write_declared()
    server.reload()
    for one in ids:
        server.wait_state(one, "delivered")
    assert sink.ledger[0].session.user == "u"


def test_another_smarthost_takes_what_one_refuses_to_log_in(postchute, cleanly, ca):
    """Bad credentials of one are no reason to wait for the others; it is said, and the same server is not asked again and again."""
    closed = cleanly(Sink("11.22.1.101", "a.test", certificate=ca.issue("11.22.1.101"), users={"u": "x"}))
    spare = cleanly(Sink("11.22.1.102", "b.test", certificate=ca.issue("11.22.1.102"), users={"u": "p"}))
    server = postchute(start=False, route="sandbox", ca_file=ca.directory / "ca.pem", delivery_threads=1)
    server.declared["routes"] = [{"name": "pair", "smarthosts": [
        "smtp://u:p@11.22.1.101:25?priority=1", "smtp://u:p@11.22.1.102:25?priority=2"]}]  # fmt: skip
    server.expect_log("the smarthost refuses our credentials, another one is used")
    server.start()
    for n in range(5):
        seen = server.deliver(**mail(f"p{n}@far.test", route="pair"))
        assert seen["recipients"][0]["attempts"] == 1 and seen["recipients"][0]["smtp"]["mx"] == "11.22.1.102"
    assert logins(closed) == 1 and len(spare.ledger) == 5


def test_a_login_that_fails_for_now_pauses_nothing(postchute, cleanly, ca):
    answers = iter(["454 4.7.0 Temporary authentication failure"])
    sink = cleanly(Sink("11.22.1.103", "r.test", certificate=ca.issue("11.22.1.103"), users={"u": "p"},
                        on={"AUTH": lambda session, argument: next(answers, None)}))  # fmt: skip
    server = postchute(route="smtp://u:p@11.22.1.103:25", ca_file=ca.directory / "ca.pem", retry_after="100ms")
    seen = server.deliver(**mail("a@far.test"))
    assert seen["recipients"][0]["attempts"] == 2 and logins(sink) == 2
    first = server.attempts(seen["id"])[0]["recipients"][0]
    assert first["outcome"] == "deferred" and first["smtp"]["code"] == 454 and first["smtp"]["tls"] == "TLSv1.3"


def test_a_smarthost_that_wants_a_login_never_bounces_a_message(postchute, cleanly):
    sink = cleanly(Sink("11.22.1.104", "r.test", on={"MAIL": "530 5.7.0 Authentication required"}))
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none")
    server.expect_log("the smarthost refuses our credentials, route paused")
    server.start()
    refusal = refusal_of(server, server.send(**mail("a@far.test"))["id"])
    assert refusal["code"] == 530 and refusal["class"] == "authentication" and refusal["stage"] == "mail"


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hosts_file(tmp_path):
    """Lines put into the hosts file of this world."""
    path = tmp_path / "hosts"

    def put(text):
        path.write_text("127.0.0.1 localhost client.postchute.test\n" + text)
        check("mount", "--bind", path, "/etc/hosts")

    yield put
    check("umount", "/etc/hosts")


def test_a_name_of_the_hosts_file_is_a_smarthost(postchute, hosts_file, cleanly, tree):
    """As in a compose network, where `mailer` is another container."""
    hosts_file("11.22.1.97 mailer mailer.internal # that one\n")
    sink = cleanly(Sink("11.22.1.97", "mailer"))
    server = postchute(route="smtp://mailer?tls=none")
    server.deliver(**mail("a@far.test"))
    assert sink.ledger[0].rcpts == ["a@far.test"]


def test_a_name_that_the_dns_knows_is_a_smarthost(postchute, cleanly, tree, ca):
    tree.zone("relays.org", "out A 11.22.1.98")
    sink = cleanly(Sink("11.22.1.98", "out.relays.org", certificate=ca.issue("out.relays.org"), users={"u": "p"}))
    server = postchute(route="smtp://u:p@out.relays.org:25", ca_file=ca.directory / "ca.pem")
    server.deliver(**mail("a@far.test"))
    session = sink.ledger[0].session
    assert session.user == "u" and session.tls["sni"] == "out.relays.org"


def test_a_resolver_that_strips_dnssec_is_noticed_and_used(postchute, cleanly, tree):
    tree.zone("stripped.org", "@ MX 10 mx\nmx A 11.22.1.99")
    sink = cleanly(Sink("11.22.1.99", "mx.stripped.org"))
    server = postchute(
        start=False, hostname="mail.acme.org", dns=tree.stripping, dns_trust_anchor=tree.dir / "root.key"
    )
    server.declared["domains"][0]["name"] = "acme.org"
    record = json.loads(server_records(server))
    tree.zone("acme.org", f'{record["name"]}. TXT ' + " ".join(f'"{record["value"][n:n + 200]}"' for n in range(0, len(record["value"]), 200)))
    server.expect_log("DNSSEC signatures do not come through: no validation, no DANE")
    server.start()
    server.wait_log("DNSSEC signatures do not come through")
    server.wait_verified("acme.org")
    server.deliver(**mail("a@stripped.org", **{"from": "ann@acme.org"}))
    assert sink.ledger[0].rcpts == ["a@stripped.org"]
    assert server.metric("postchute_dns_validating") == 0
    doctor = server.command("doctor", "--mx-domain", "stripped.org")
    assert re.search(r"^look\s+dns\s.*DNSSEC: off, signatures do not come through", doctor.stdout, re.M), doctor.stdout


def server_records(server):
    """The DKIM record that the declared domain wants, learned without a running server."""
    pem = pathlib.Path(server.declared["domains"][0]["dkim"][0]["key_file"]).read_bytes()
    public = serialization.load_pem_private_key(pem, None).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    value = f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"
    return json.dumps({"name": f"s1._domainkey.{server.declared['domains'][0]['name']}", "value": value})

"""What TLS promises: each level that a route or a message can ask for, against each way in which a server can fall short."""

import json
import ssl
import warnings

import pytest

from peers.certs import Authority
from peers.hostile import HostileSMTP
from peers.postchute import Postchute
from peers.process import wait_until
from peers.sink import DROP, Sink

LEVELS = ("none", "opportunistic", "encrypt", "verify")
CLEAR, TLS, DEFERRED = "in clear", "over TLS", "deferred"

# kind of server: what becomes of a message at each level
MATRIX = {
    "good": (CLEAR, TLS, TLS, TLS),
    "not-offered": (CLEAR, CLEAR, DEFERRED, DEFERRED),
    "refused-454": (CLEAR, CLEAR, DEFERRED, DEFERRED),
    "broken": (CLEAR, CLEAR, DEFERRED, DEFERRED),
    "hangs-up": (CLEAR, CLEAR, DEFERRED, DEFERRED),
    "tls-1.0": (CLEAR, CLEAR, DEFERRED, DEFERRED),
    "expired": (CLEAR, TLS, TLS, DEFERRED),
    "not-yet": (CLEAR, TLS, TLS, DEFERRED),
    "wrong-name": (CLEAR, TLS, TLS, DEFERRED),
    "self-signed": (CLEAR, TLS, TLS, DEFERRED),
    "untrusted": (CLEAR, TLS, TLS, DEFERRED),
}


def garbage_instead_of_tls(talk):
    """Says 220 to STARTTLS and then goes on in clear; takes mail from who does not ask for TLS."""
    talk.hello("STARTTLS")
    while line := talk.line():
        if line == "STARTTLS":
            talk.send("220 go ahead\r\n")
            talk._fill()
            talk.send("500 what?\r\n")
            talk.until_closed()
        elif line == "DATA":
            talk.send("354 go\r\n")
            talk.expect_data()
            talk.send("250 kept\r\n")
        else:
            talk.send("250 ok\r\n")


@pytest.fixture(scope="module")
def peers(ca, tmp_path_factory):
    """A server of each kind, at an address of its own."""
    other = Authority.new(tmp_path_factory.mktemp("other"), "somebody else")
    warnings.filterwarnings("ignore", message="ssl.TLSVersion.TLSv1 is deprecated")  # that is the point
    old = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1)
    made = {}

    def sink(kind, **options):
        address = f"11.22.1.{60 + len(made)}"
        certificate = options.pop("certificate", lambda name: ca.issue(name))
        made[kind] = Sink(address, f"mx.{kind}.test", certificate=certificate(address), **options)

    sink("good")
    sink("not-offered", certificate=lambda name: None)
    sink("refused-454", on={"STARTTLS": "454 4.7.0 TLS not available"})
    sink("hangs-up", on={"STARTTLS": DROP})
    sink("tls-1.0", tls_versions=old)
    sink("expired", certificate=lambda name: ca.issue(name, expired=True))
    sink("not-yet", certificate=lambda name: ca.issue(name, not_yet=True))
    sink("wrong-name", certificate=lambda name: ca.issue("mx.elsewhere.test"))
    sink("self-signed", certificate=lambda name: ca.issue(name, self_signed=True))
    sink("untrusted", certificate=lambda name: other.issue(name))
    made["broken"] = HostileSMTP("11.22.1.80", garbage_instead_of_tls)
    for peer in made.values():
        peer.start()
    yield made
    for peer in made.values():
        peer.stop()


@pytest.fixture(scope="module")
def server(peers, ca):
    server = Postchute(route="sandbox", ca_file=ca.directory / "ca.pem", retry_after="30s", delivery_threads=1)
    routes = [
        {"name": f"{kind}-{level}", "smarthosts": [f"smtp://{peer.address}:25?tls={level}"]}
        for kind, peer in peers.items() for level in LEVELS
    ]  # fmt: skip
    server.declared["routes"] = routes
    server.start()
    yield server
    server.stop()


def send(server, to, **more):
    return server.send(**{"from": "a@acme.test", "to": to, "subject": "TLS", "text": "secret", **more})["id"]


def outcome(server, message_id):
    """(what became of it, the refusal's class)"""
    def settled():
        (recipient,) = server.message(message_id)["recipients"]
        return recipient if recipient["state"] not in ("queued", "sending") else None

    recipient = wait_until(settled, f"an attempt at {message_id}", timeout=20)
    if recipient["state"] == "delivered":
        return (TLS if recipient["smtp"]["tls"] else CLEAR), None
    return recipient["state"], recipient["refusal"]["class"]


def received(peer, to):
    """How the peer saw it: nothing, in clear, or over TLS."""
    if isinstance(peer, HostileSMTP):
        return CLEAR if any(f"RCPT TO:<{to}>" in line for talk in peer.sessions for line in talk.lines) else None
    found = [message for message in peer.ledger if to in message.rcpts]
    return (TLS if found[0].session.tls else CLEAR) if found else None


@pytest.mark.parametrize("kind", MATRIX)
@pytest.mark.parametrize("level", LEVELS)
def test_C34_T7_each_level_against_each_server(server, peers, kind, level):
    wanted = MATRIX[kind][LEVELS.index(level)]
    to = f"{level}@{kind}.example"
    got, refused_for = outcome(server, send(server, to, route=f"{kind}-{level}"))
    assert got == wanted, server.log()[-3000:]
    assert received(peers[kind], to) == (None if wanted == DEFERRED else wanted)
    if wanted == DEFERRED:
        assert refused_for == ("network" if kind == "hangs-up" else "tls")


@pytest.mark.parametrize("kind", ["not-offered", "refused-454", "broken", "wrong-name", "untrusted"])
def test_T7_a_message_can_ask_for_more_than_its_route(server, peers, kind):
    to = f"required@{kind}.example"
    message = send(server, to, route=f"{kind}-opportunistic", require_tls=True)
    assert outcome(server, message) == (DEFERRED, "tls")
    assert received(peers[kind], to) is None
    assert server.message(message)["tls"] == "verify"


def test_T7_a_message_that_asks_for_tls_gets_it(server, peers):
    for number, fields in enumerate(({"require_tls": True}, {"tls": "encrypt"}, {"tls": "verify"})):
        to = f"asks-{number}@good.example"
        message = send(server, to, route="good-opportunistic", **fields)
        assert outcome(server, message) == (TLS, None) and received(peers["good"], to) == TLS
        attempt = server.attempts(message)[0]
        assert attempt["tls"]["verified"] or fields == {"tls": "encrypt"}


def test_a_host_with_broken_tls_is_remembered(server, peers):
    """The second message does not try the handshake again."""
    to = "again@tls-1.0.example"
    assert outcome(server, send(server, "first@tls-1.0.example", route="tls-1.0-opportunistic"))[0] == CLEAR
    before = sum(verb == "STARTTLS" for one in peers["tls-1.0"].sessions for verb, _ in one.commands)
    assert outcome(server, send(server, to, route="tls-1.0-opportunistic"))[0] == CLEAR
    after = sum(verb == "STARTTLS" for one in peers["tls-1.0"].sessions for verb, _ in one.commands)
    assert after == before


def test_T6_replies_injected_behind_starttls_end_the_session(postchute, ca, cleanly):
    """T6: what follows the 220 in clear was put there by somebody between."""

    def injects(talk):
        talk.hello("STARTTLS", "AUTH PLAIN")
        talk.expect("STARTTLS")
        talk.send("220 go ahead\r\n250-mx.hostile.test\r\n250 AUTH PLAIN\r\n")
        talk.until_closed()

    peer = cleanly(HostileSMTP("11.22.1.81", injects))
    server = postchute(route="smtp://user:secret@11.22.1.81:25", ca_file=ca.directory / "ca.pem", retry_after="30s")
    message = send(server, "x@far.test")
    assert outcome(server, message) == (DEFERRED, "tls")
    (talk,) = peer.wait_sessions(1)
    assert talk.lines[1:] == ["STARTTLS"]  # and not a word after it: no AUTH, not even in a ClientHello
    assert "clear after STARTTLS" in json.dumps(server.message(message))

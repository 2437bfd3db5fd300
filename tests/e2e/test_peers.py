"""The peers themselves: what the other tests rely on is shown to be real here."""

import smtplib
import socket
import ssl
import subprocess

import dns.flags
import dns.rcode
import dns.rdatatype
import pytest
import requests

from peers.certs import Authority
from peers.hostile import HostileSMTP
from peers.postfix import Postfix
from peers.sink import Sink
from peers.webhook import WebhookReceiver

MESSAGE = b"From: a@client.test\r\nTo: ann@acme.test\r\nSubject: peer\r\n\r\n.dot\r\nbody\r\n"


@pytest.fixture(scope="module")
def mx(ca):
    with Postfix("11.22.1.1", "mx.acme.test", ["acme.test"], ca.issue(["mx.acme.test", "11.22.1.1"])) as mx:
        yield mx


@pytest.fixture(scope="module")
def smarthost(ca):
    certificate = ca.issue(["relay.acme.test", "11.22.1.2"])
    with Postfix("11.22.1.2", "relay.acme.test", certificate=certificate, users={"ann": "s3cret"}) as relay:
        yield relay


@pytest.fixture(scope="module")
def zones(_tree):
    tree = _tree
    tree.zone("acme.test", "@ MX 10 mx\nmx A 11.22.1.1\n_25._tcp.mx TLSA 3 1 1 " + "ab" * 32)
    tree.zone("plain.test", "@ MX 10 mx\nmx A 11.22.1.1", mode="unsigned")
    tree.zone("bogus.test", "mx A 11.22.1.1", mode="bogus")
    tree.zone("expired.test", "mx A 11.22.1.1", mode="expired")
    return tree


def test_nothing_leaves_the_machine():
    done = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    assert [line.split(":")[1].strip() for line in done.stdout.splitlines()] == ["lo"]


def test_a_message_given_to_the_mx_is_in_the_maildir(mx):
    with smtplib.SMTP("11.22.1.1", 25, timeout=10) as smtp:
        smtp.starttls(context=ssl.create_default_context())  # verified: the store trusts the test authority
        smtp.sendmail("a@client.test", ["ann@acme.test"], MESSAGE)
    stored = mx.wait_mail("ann@acme.test")[0]
    assert b"Subject: peer\n" in stored and b"\n.dot\nbody\n" in stored
    assert b"(using TLSv1.3" in stored


@pytest.mark.parametrize(
    "recipient, code",
    [("nobody@acme.test", 550), ("later@acme.test", 450), ("full@acme.test", 452), ("blocked@acme.test", 554),
     ("ann@elsewhere.test", 554)],
)  # fmt: skip
def test_the_mx_refuses(mx, recipient, code):
    with smtplib.SMTP("11.22.1.1", 25, timeout=10) as smtp:
        smtp.ehlo()
        smtp.mail("a@client.test")
        assert smtp.rcpt(recipient)[0] == code


@pytest.mark.parametrize("port", [25, 587, 465])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_the_smarthost_relays_for_who_is_authenticated(smarthost, port, mechanism):
    context = ssl.create_default_context()
    if port == 465:
        smtp = smtplib.SMTP_SSL("11.22.1.2", port, timeout=10, context=context)
    else:
        smtp = smtplib.SMTP("11.22.1.2", port, timeout=10)
    with smtp:
        smtp.ehlo()
        if port != 465:
            assert not smtp.has_extn("auth")  # never before TLS
            smtp.starttls(context=context)
            smtp.ehlo()
        offered = smtp.esmtp_features["auth"].split()
        assert mechanism in offered and "SCRAM-SHA-256" in offered
        smtp.user, smtp.password = "ann", "s3cret"
        assert smtp.auth(mechanism, getattr(smtp, "auth_" + mechanism.lower().replace("-", "_")))[0] == 235
        to = f"bob-{port}-{mechanism.lower()}@far.test"
        smtp.sendmail("a@client.test", [to], MESSAGE)
    assert b"Subject: peer\n" in smarthost.wait_mail(to)[0]


def test_the_smarthost_refuses_a_wrong_password_and_a_stranger(smarthost):
    with smtplib.SMTP("11.22.1.2", 587, timeout=10) as smtp:
        smtp.starttls(context=ssl.create_default_context())
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login("ann", "wrong")
    with smtplib.SMTP("11.22.1.2", 587, timeout=10) as smtp:
        smtp.ehlo()
        smtp.mail("a@client.test")
        assert smtp.rcpt("bob@far.test")[0] == 554


def answers(reply, kind):
    return [record.to_text() for rrset in reply.answer if rrset.rdtype == kind for record in rrset]


def test_the_resolver_validates_a_signed_zone(zones):
    reply = zones.ask("acme.test", "MX")
    assert answers(reply, dns.rdatatype.MX) == ["10 mx.acme.test."]
    assert reply.flags & dns.flags.AD
    assert answers(reply, dns.rdatatype.RRSIG)
    assert zones.ask("_25._tcp.mx.acme.test", "TLSA").flags & dns.flags.AD
    missing = zones.ask("no.acme.test", "A")
    assert missing.rcode() == dns.rcode.NXDOMAIN and missing.flags & dns.flags.AD


def test_the_resolver_answers_for_an_unsigned_zone_without_vouching_for_it(zones):
    reply = zones.ask("plain.test", "MX")
    assert answers(reply, dns.rdatatype.MX) == ["10 mx.plain.test."]
    assert not reply.flags & dns.flags.AD


@pytest.mark.parametrize("zone", ["bogus.test", "expired.test"])
def test_the_resolver_refuses_a_zone_whose_signatures_are_bad(zones, zone):
    assert zones.ask(f"mx.{zone}", "A").rcode() == dns.rcode.SERVFAIL
    # the data is there: only validation stands before it
    assert answers(zones.ask(f"mx.{zone}", "A", server=zones.authority), dns.rdatatype.A) == ["11.22.1.1"]


def test_the_stripping_forwarder_answers_without_a_trace_of_dnssec(zones):
    reply = zones.ask("acme.test", "MX", server=zones.stripping)
    assert answers(reply, dns.rdatatype.MX) == ["10 mx.acme.test."]
    assert not reply.flags & dns.flags.AD
    assert not answers(reply, dns.rdatatype.RRSIG)
    assert not zones.ask("acme.test", "DNSKEY", server=zones.stripping).answer


def test_a_changed_zone_is_served_at_once(zones):
    zones.zone("acme.test", "@ MX 20 other\nother A 11.22.1.9")
    reply = zones.ask("acme.test", "MX")
    assert answers(reply, dns.rdatatype.MX) == ["20 other.acme.test."]
    assert reply.flags & dns.flags.AD


def test_an_untrusted_authority_is_not_trusted(tmp_path):
    other = Authority.new(tmp_path, "someone else")
    certificate = other.issue("mx.evil.test")
    with Postfix("11.22.1.3", "mx.evil.test", ["evil.test"], certificate):
        with smtplib.SMTP("11.22.1.3", 25, timeout=10) as smtp:
            with pytest.raises(ssl.SSLCertVerificationError):
                smtp.starttls(context=ssl.create_default_context())


def test_the_sink_keeps_every_octet(ca):
    certificate = ca.issue(["sink.test", "11.22.1.4"])
    body = b"From: a@b.test\r\n\r\n..dots\r\n.\r\nend\r\n"
    with Sink("11.22.1.4", certificate=certificate, users={"u": "p"}) as sink:
        with smtplib.SMTP("11.22.1.4", 25, timeout=10) as smtp:
            smtp._host = "sink.test"  # the name asked for in the handshake
            smtp.starttls(context=ssl.create_default_context())
            smtp.ehlo()
            smtp.login("u", "p")
            smtp.sendmail("a@b.test", ["c@d.test", "e@f.test"], body)
        message = sink.wait(1)[0]
    assert message.data == body
    assert message.wire == b"From: a@b.test\r\n\r\n...dots\r\n..\r\nend\r\n.\r\n"
    assert message.rcpts == ["c@d.test", "e@f.test"] and message.mail_from == "a@b.test"
    assert message.session.tls["version"] == "TLSv1.3" and message.session.tls["sni"] == "sink.test"
    assert message.session.user == "u" and not message.session.faults


def test_the_sink_answers_as_told_and_notes_smuggling():
    def refuse_eve(_session, argument):
        return "550 5.1.1 not eve" if "eve" in argument else None

    with Sink("11.22.1.5", on={"RCPT": refuse_eve, "end": "451 4.3.0 not now"}) as sink:
        sink.expects_faults = True
        with socket.create_connection(("11.22.1.5", 25), timeout=10) as raw:
            replies = raw.makefile("rb")
            raw.sendall(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<eve@b.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n")
            raw.sendall(b"one\n.\nstill the same\r\n.\r\nQUIT\r\n")
            codes = [line[:3] for line in replies if line[3:4] == b" "]
    assert codes == [b"220", b"250", b"250", b"550", b"250", b"354", b"451", b"221"]
    assert sink.ledger[0].data == b"one\n.\nstill the same\r\n" and sink.ledger[0].rcpts == ["b@b.test"]
    assert [what for what, _ in sink.sessions[0].faults] == ["bare line end or NUL in a message"]
    sink.expects_faults = False
    with pytest.raises(AssertionError, match="is no SMTP"):  # and at a test's end they are its failure
        sink.stop()
    with pytest.raises(AssertionError):
        sink.wait(1, timeout=0.01)  # refused at the end: not accepted


def test_the_sink_takes_chunks():
    with Sink("11.22.1.6", extensions=["CHUNKING", "PIPELINING"]) as sink:
        with socket.create_connection(("11.22.1.6", 25), timeout=10) as raw:
            raw.sendall(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@b.test>\r\nBDAT 6\r\n.dot\r\nBDAT 3 LAST\r\nx\r\n")
            message = sink.wait(1)[0]
    assert message.data == b".dot\r\nx\r\n" and message.verb == "BDAT"


def test_a_hostile_server_follows_its_script_and_reports_what_it_saw():
    def script(talk):
        talk.hello("PIPELINING")
        talk.expect("MAIL")
        talk.drip("250 ok\r\n")
        talk.expect("RCPT")
        talk.reset()

    with HostileSMTP("11.22.1.7", script) as server:
        smtp = smtplib.SMTP("11.22.1.7", 25, timeout=10)
        smtp.ehlo()
        assert smtp.mail("a@b.test")[0] == 250
        with pytest.raises((ConnectionResetError, smtplib.SMTPServerDisconnected)):
            smtp.rcpt("b@b.test")
        session = server.wait_sessions(1)[0]
    assert [line.lower() for line in session.lines[1:]] == ["mail from:<a@b.test>", "rcpt to:<b@b.test>"]


def test_a_hostile_script_that_is_not_followed_fails_the_test():
    server = HostileSMTP("11.22.1.8", lambda talk: talk.expect("HELO")).start()
    with socket.create_connection(("11.22.1.8", 25), timeout=10) as raw:
        raw.sendall(b"QUIT\r\n")
        server.wait_sessions(1)
    with pytest.raises(AssertionError, match="expected HELO"):
        server.stop()


def test_the_webhook_receiver_keeps_headers_and_bodies(ca):
    certificate = ca.issue(["hook.test", "11.22.1.9"])
    with WebhookReceiver("11.22.1.9", certificate=certificate, answers=[503, 204]) as hook:
        client = requests.Session()
        client.verify = "/etc/ssl/certs/ca-certificates.crt"
        for status in (503, 204, 204):
            assert client.post(hook.url(), data=b'{"a":1}', headers={"Webhook-Id": "m1"}).status_code == status
        calls = hook.wait(3)
    assert calls[0].json() == {"a": 1} and calls[0].headers["webhook-id"] == "m1" and calls[0].path == "/hook"

"""The peers themselves: what the other tests rely on is shown to be real here."""

import smtplib
import ssl
import subprocess

import dns.flags
import dns.rcode
import dns.rdatatype
import pytest

from peers.certs import Authority, trusted_authority
from peers.dns import Dns
from peers.postfix import Postfix

MESSAGE = b"From: a@client.test\r\nTo: ann@acme.test\r\nSubject: peer\r\n\r\n.dot\r\nbody\r\n"


@pytest.fixture(scope="module")
def ca():
    return trusted_authority()


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
def tree(ca):
    tree = Dns()
    tree.zone("acme.test", "@ MX 10 mx\nmx A 11.22.1.1\n_25._tcp.mx TLSA 3 1 1 " + "ab" * 32)
    tree.zone("plain.test", "@ MX 10 mx\nmx A 11.22.1.1", mode="unsigned")
    tree.zone("bogus.test", "mx A 11.22.1.1", mode="bogus")
    tree.zone("expired.test", "mx A 11.22.1.1", mode="expired")
    with tree:
        yield tree


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


def test_the_resolver_validates_a_signed_zone(tree):
    reply = tree.ask("acme.test", "MX")
    assert answers(reply, dns.rdatatype.MX) == ["10 mx.acme.test."]
    assert reply.flags & dns.flags.AD
    assert answers(reply, dns.rdatatype.RRSIG)
    assert tree.ask("_25._tcp.mx.acme.test", "TLSA").flags & dns.flags.AD
    missing = tree.ask("no.acme.test", "A")
    assert missing.rcode() == dns.rcode.NXDOMAIN and missing.flags & dns.flags.AD


def test_the_resolver_answers_for_an_unsigned_zone_without_vouching_for_it(tree):
    reply = tree.ask("plain.test", "MX")
    assert answers(reply, dns.rdatatype.MX) == ["10 mx.plain.test."]
    assert not reply.flags & dns.flags.AD


@pytest.mark.parametrize("zone", ["bogus.test", "expired.test"])
def test_the_resolver_refuses_a_zone_whose_signatures_are_bad(tree, zone):
    assert tree.ask(f"mx.{zone}", "A").rcode() == dns.rcode.SERVFAIL
    # the data is there: only validation stands before it
    assert answers(tree.ask(f"mx.{zone}", "A", server=tree.authority), dns.rdatatype.A) == ["11.22.1.1"]


def test_the_stripping_forwarder_answers_without_a_trace_of_dnssec(tree):
    reply = tree.ask("acme.test", "MX", server=tree.stripping)
    assert answers(reply, dns.rdatatype.MX) == ["10 mx.acme.test."]
    assert not reply.flags & dns.flags.AD
    assert not answers(reply, dns.rdatatype.RRSIG)
    assert not tree.ask("acme.test", "DNSKEY", server=tree.stripping).answer


def test_a_changed_zone_is_served_at_once(tree):
    tree.zone("acme.test", "@ MX 20 other\nother A 11.22.1.9")
    reply = tree.ask("acme.test", "MX")
    assert answers(reply, dns.rdatatype.MX) == ["20 other.acme.test."]
    assert reply.flags & dns.flags.AD


def test_an_untrusted_authority_is_not_trusted(tmp_path):
    other = Authority.new(tmp_path, "someone else")
    certificate = other.issue("mx.evil.test")
    with Postfix("11.22.1.3", "mx.evil.test", ["evil.test"], certificate):
        with smtplib.SMTP("11.22.1.3", 25, timeout=10) as smtp:
            with pytest.raises(ssl.SSLCertVerificationError):
                smtp.starttls(context=ssl.create_default_context())

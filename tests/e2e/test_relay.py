"""From the API to a real Postfix: the plainest road, once through a smarthost and once by MX."""

import email

import dkim
import pytest

from peers.postfix import Postfix

DOMAIN = "sender-road.test"
MESSAGE = {"from": f"Acme <no-reply@{DOMAIN}>", "subject": "Your code", "text": ".\n..\n123456\n"}
BODY = b".\n..\n123456\n"


def add_domain(server, tree=None):
    """Adds the sending domain; publishes its records when there is a tree. Returns its TXT records by name."""
    answer = server.api().post("/v1/domains", json={"name": DOMAIN})
    assert answer.status_code == 201, answer.text
    records = {one["name"]: one["value"] for one in answer.json()["records"] if one["type"] == "TXT"}
    if tree:
        tree.zone(DOMAIN, "\n".join(f"{name}. TXT {zone_text(value)}" for name, value in records.items()))
        # a new domain is looked at at once and then every minute; a server that starts looks at all of them
        server.stop()
        server.start()
        server.wait_verified(DOMAIN)
    return records


def zone_text(value):
    return " ".join(f'"{value[start : start + 250]}"' for start in range(0, len(value), 250))


def verify_each_signature(stored, records):
    """Postfix ended lines with LF and put its own fields before; both are undone by the canonical form, or harmless."""
    message = stored.replace(b"\n", b"\r\n")
    count = message.partition(b"\r\n\r\n")[0].lower().count(b"\r\ndkim-signature:")

    def find(name, timeout=5):
        return records.get(name.decode().rstrip("."), "").encode() or None

    for index in range(count):
        assert dkim.DKIM(message).verify(idx=index, dnsfunc=find), index
    return count


@pytest.fixture(scope="module")
def relay(ca):
    certificate = ca.issue(["smarthost.postchute.test", "11.22.5.1"])
    with Postfix("11.22.5.1", "smarthost.postchute.test", certificate=certificate, users={"ann": "s3cret"}) as one:
        yield one


@pytest.mark.parametrize("url", ["smtp://ann:s3cret@11.22.5.1:587", "smtps://ann:s3cret@11.22.5.1:465"])
def test_a_message_goes_through_a_smarthost_with_auth_over_tls(relay, postchute, url):
    server = postchute(route=url)
    records = add_domain(server)
    to = f"bob-{url[:5].strip(':')}@far.test"
    sent = server.send(**MESSAGE, to=to)
    final = server.wait_final(sent["id"])
    assert [one["state"] for one in final["recipients"]] == ["delivered"], final
    stored = relay.wait_mail(to)[0]
    assert b"\nSubject: Your code\n" in stored and email.message_from_bytes(stored).get_payload(decode=True) == BODY
    # authenticated, and over TLS: E-SMTP-S-A
    assert b"with ESMTPSA" in stored
    assert verify_each_signature(stored, records) == 2  # RSA and Ed25519


def test_a_message_goes_to_the_mx_of_its_recipients(tree, ca, postchute, address):
    where = address()
    tree.zone("mx-road.test", f"@ MX 10 mx\nmx A {where}")
    with Postfix(where, "mx.mx-road.test", ["mx-road.test"], ca.issue("mx.mx-road.test")) as mx:
        server = postchute(route="mx", dns=tree.resolver)
        records = add_domain(server, tree)
        sent = server.send(**MESSAGE, to=["ann@mx-road.test", "nobody@mx-road.test"])
        final = server.wait_final(sent["id"])
        states = {one["email"]: one["state"] for one in final["recipients"]}
        assert states == {"ann@mx-road.test": "delivered", "nobody@mx-road.test": "bounced"}
        stored = mx.wait_mail("ann@mx-road.test")[0]
        assert stored.count(b"\nSubject: ") == 1 and b"(using TLSv1.3" in stored
        assert len(mx.mails()) == 1
        assert verify_each_signature(stored, records) == 2

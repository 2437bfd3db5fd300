"""Straight to the recipients' mail servers: a real Postfix behind a real, signed DNS, looked up through a validating resolver."""

import datetime
import json
import re
import shutil
import time

import pytest

from peers.contract import Contract
from peers.hostile import HostileSMTP
from peers.postchute import Postchute
from peers.postfix import Postfix
from peers.process import wait_until
from peers.sink import Sink
from peers.verify import dkim_verify, opendkim_verify, signatures

MX = "11.22.1.40"
REFUSING = "11.22.1.41"
SILENT = "11.22.1.42"  # nothing listens there
SECOND = "11.22.1.43"
THIRD = "11.22.1.44"

ZONES = {
    "far.org": f"@ MX 10 mx\nmx A {MX}",
    "near.org": "@ MX 10 mx.far.org.",
    "implicit.org": f"@ A {MX}",
    "fallback.org": f"@ MX 10 dead\n@ MX 20 refusing\n@ MX 30 mx.far.org.\ndead A {SILENT}\nrefusing A {REFUSING}",
    "twofold.org": f"@ MX 10 mx\nmx A {SILENT}\nmx A {MX}",
    "nomail.org": "@ MX 0 .",
    "alias.org": "@ MX 10 mx\nmx CNAME mx.far.org.",
    "www.org": "@ TXT nothing\nother CNAME far.org.",
    "empty.org": "@ TXT nothing",
    "down.org": f"@ MX 10 mx\nmx A {SILENT}",
    "second.org": f"@ MX 10 mx\nmx A {SECOND}",
    "worse.org": f"@ A {MX}\n@ MX 10 dead\ndead A {SILENT}",
    "xn--bcher-kva.org": "@ MX 10 mx.far.org.",
    "equal.org": "@ MX 10 one\n@ MX 10 two\n" + f"one A {SECOND}\ntwo A {THIRD}",
    "us.org": f"@ MX 10 mail.sender.org.\n@ MX 20 mx.far.org.",
}


def zone_lines(server, domain):
    done = server.command("domain", "dns", domain, "--zone")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def world(_tree, ca):
    """Everything that the tests of this file share: the zones, the receivers, and a server that sends for sender.org."""
    tree = _tree
    server = Postchute(
        hostname="mail.sender.org", route="mx", dns=tree.resolver, retry_after="300ms", smtp_connect_timeout="2s",
    )  # fmt: skip
    for name, records in ZONES.items():
        tree.zone(name, records, reload=False)
    tree.zone("bogus.org", f"@ MX 10 mx\nmx A {MX}", mode="bogus", reload=False)
    tree.zone("plain.org", "@ MX 10 mx.far.org.", mode="unsigned", reload=False)
    added = server.command("domain", "add", "sender.org", "--zone", "--bounce-address", "bounces@sender.org")
    assert added.returncode == 0, added.stderr
    assert server.command("domain", "add", "unpublished.org").returncode == 0
    tree.zone("sender.org", "mail A 11.22.9.9\n" + added.stdout, reload=False)
    tree.reload()
    # a copy: the tree's own file may be written anew
    shutil.copy(tree.dir / "root.key", server.dir / "anchor.key")
    server.settings["dns_trust_anchor"] = server.dir / "anchor.key"
    domains = ["far.org", "near.org", "implicit.org", "fallback.org", "twofold.org", "alias.org", "plain.org", "other.www.org", "worse.org", "xn--bcher-kva.org"]

    def refuse(talk):
        talk.send("554 5.7.1 no service for you\r\n")
        talk.until_closed()

    with Postfix(MX, "mx.far.org", domains, ca.issue(["mx.far.org"])) as postfix:
        with HostileSMTP(REFUSING, refuse) as refusing, Sink(SECOND, "mx.second.org", certificate=ca.issue("mx.second.org")) as sink, \
                Sink(THIRD, "two.equal.org") as third:
            server.expect_log("site does not answer, paused")
            server.start()
            server.tree, server.postfix, server.refusing, server.sink, server.third = tree, postfix, refusing, sink, third
            server.wait_verified("sender.org")
            yield server
            server.stop()


def domain(server, name):
    return server.api().get(f"/v1/domains/{name}").json()


def mail(to, **more):
    return {"from": "Ann <ann@sender.org>", "to": to, "subject": "Grüße", "text": "Hello,\n.dot\nbye", **more}


def records_from_dns(tree, message):
    found = {}
    for tags in signatures(message):
        name = f"{tags['s']}._domainkey.{tags['d']}"
        for rrset in tree.ask(name, "TXT").answer:
            for record in rrset:
                if hasattr(record, "strings"):
                    found[name] = b"".join(record.strings).decode()
    return found


def test_the_domain_is_verified_and_dnssec_is_validated(world):
    seen = domain(world, "sender.org")
    assert seen["verified_at"] and all(key["published_at"] for key in seen["dkim"])
    assert world.metric("postchute_dns_validating") == 1
    assert not domain(world, "unpublished.org")["verified"]


def test_a_domain_is_looked_at_when_that_is_asked_for(world):
    """Of changed.org another key was published, of its RSA selector."""
    contract = Contract(world)
    selector = time.strftime("pc%Y%mr", time.gmtime())
    other = "v=DKIM1; k=rsa; p=" + "A" * 120
    world.tree.zone("changed.org", f'{selector}._domainkey TXT "{other}"\n_dmarc TXT "v=DMARC1; p=reject"')
    assert contract.ask("POST", "/v1/domains", json={"name": "changed.org"}).status_code == 201
    seen = contract.ask("POST", "/v1/domains/changed.org/verify").json()
    states = {(one["purpose"], one["name"].partition(".")[0]): (one["state"], one["found"]) for one in seen["records"]}
    assert states == {
        ("dkim", selector): ("different", other), ("dkim", selector[:-1] + "e"): ("missing", None),
        ("spf", "changed"): ("missing", None), ("dmarc", "_dmarc"): ("found", "v=DMARC1; p=reject"),
    }  # fmt: skip
    assert seen["complete"] and not seen["verified"]
    good = contract.ask("POST", "/v1/domains/sender.org/verify", json={}).json()
    assert good["verified"] and {one["state"] for one in good["records"] if one["purpose"] == "dkim"} == {"found"}
    assert contract.ask("POST", "/v1/domains/nobody.org/verify").status_code == 404
    assert contract.ask("POST", "/v1/domains/sender.org/verify", json={"force": True}).status_code == 422


def test_the_command_says_what_is_missing(world):
    done = world.command("domain", "verify", "sender.org")
    assert done.returncode == 0 and re.search(r"^found +dkim +pc\d{6}r\._domainkey\.sender\.org$", done.stdout, re.M), done.stdout
    done = world.command("domain", "verify", "unpublished.org")
    assert done.returncode == 1 and "unpublished.org is not verified" in done.stdout, done.stdout
    assert re.search(r"^missing +dkim .*\n +wanted: +v=DKIM1; k=rsa; p=", done.stdout, re.M), done.stdout


def test_a_message_arrives_in_the_maildir_signed(world):
    seen = world.deliver(**mail("first@far.org"))
    (stored,) = world.postfix.wait_mail("first@far.org")
    head = stored.partition(b"\n\n")[0]
    assert b"Return-Path: <bounces@sender.org>" in head
    assert re.search(rb"from mail\.sender\.org \(.*\n.*using TLSv1\.3", head)
    assert stored.endswith(b"\n\nHello,\n.dot\nbye\n")
    (attempt,) = world.attempts(seen["id"])
    assert attempt["host"] == "mx.far.org" and attempt["address"] == f"{MX}:25"
    # as it left: Postfix put its own fields before it
    sent = stored[stored.index(b"DKIM-Signature:"):]
    records = records_from_dns(world.tree, sent)
    found = dkim_verify(sent, records)
    assert {tags["a"] for tags in found} == {"rsa-sha256", "ed25519-sha256"} and len(records) == 2
    opendkim_verify(sent)


def test_C23_several_recipients_of_a_domain_are_one_transaction(world):
    to = [f"many-{n}@far.org" for n in range(5)]
    seen = world.deliver(**mail(to[:2], cc=to[2:4], bcc=to[4:]))
    (attempt,) = world.attempts(seen["id"])
    assert [one["email"] for one in attempt["recipients"]] == to
    for one in to:
        (stored,) = world.postfix.wait_mail(one)
    assert "nrcpt=5" in world.postfix.log()


def test_each_domain_has_its_own_transaction_though_the_host_is_the_same(world):
    seen = world.deliver(**mail(["each@far.org", "each@near.org"]))
    attempts = world.attempts(seen["id"])
    assert sorted([one["email"] for one in attempt["recipients"]] for attempt in attempts) == [["each@far.org"], ["each@near.org"]]
    world.postfix.wait_mail("each@far.org")
    world.postfix.wait_mail("each@near.org")


@pytest.mark.parametrize("name", ["implicit.org", "twofold.org", "alias.org", "plain.org", "other.www.org"])
def test_C26_the_way_to_a_domain_is_found(world, name):
    world.deliver(**mail(f"way@{name}"))
    (stored,) = world.postfix.wait_mail(f"way@{name}")


def test_C27_worse_mail_servers_are_asked_when_better_ones_refuse(world):
    sessions = len(world.refusing.sessions)
    seen = world.deliver(**mail("next@fallback.org"))
    world.postfix.wait_mail("next@fallback.org")
    assert len(world.refusing.sessions) == sessions + 1
    assert seen["recipients"][0]["attempts"] == 1 and seen["recipients"][0]["smtp"]["mx"] == "mx.far.org"
    assert "554 5.7.1 no service for you" in world.attempts(seen["id"])[-1]["transcript"]


def test_C31_a_domain_that_takes_no_mail_bounces_at_once(world):
    seen = world.wait_final(world.send(**mail("x@nomail.org"))["id"])
    (recipient,) = seen["recipients"]
    assert recipient["state"] == "bounced" and recipient["attempts"] == 1
    assert recipient["refusal"]["enhanced"] == "5.1.10" and recipient["refusal"]["class"] == "invalid_domain"


@pytest.mark.parametrize("name", ["nosuch.org", "sub.far.org", "empty.org"])
def test_C25_a_domain_that_is_not_there_bounces_when_seen_twice(world, name):
    seen = world.wait_final(world.send(**mail(f"x@{name}"))["id"])
    (recipient,) = seen["recipients"]
    assert recipient["state"] == "bounced" and recipient["attempts"] == 2
    assert recipient["refusal"]["class"] == "invalid_domain" and recipient["refusal"]["scope"] == "recipient"
    types = [event["type"] for event in world.events(seen["id"])]
    assert types == ["message.accepted", "recipient.deferred", "recipient.bounced", "message.completed"]


def test_C25_a_domain_whose_dns_lies_is_deferred(world):
    message = world.send(**mail("x@bogus.org"))
    seen = world.wait_state(message["id"], "deferred")
    assert seen["recipients"][0]["refusal"]["class"] == "dns"
    assert world.postfix.mails("x@bogus.org") == []
    canceled = world.api().post(f"/v1/messages/{message['id']}/cancel")
    assert canceled.status_code == 200, canceled.text


def test_C26_with_MX_records_the_addresses_of_the_name_are_not_used(world):
    message = world.send(**mail("x@worse.org"))  # at whose own address Postfix would take it
    seen = world.wait_state(message["id"], "deferred")
    assert seen["recipients"][0]["refusal"]["class"] == "network"
    assert world.api().post(f"/v1/messages/{message['id']}/cancel").status_code == 200
    assert world.postfix.mails("x@worse.org") == []


def test_C27_equal_mail_servers_share_the_load(world):
    def taken(sink):
        return sum(message.rcpts[0].endswith("@equal.org") for message in sink.ledger)

    # whoever finds a session open uses it: here nobody does, so that each message chooses anew
    world.sink.one_message = world.third.one_message = True
    ids = [world.send(**mail(f"e{n}@equal.org"))["id"] for n in range(60)]
    for one in ids:
        world.wait_state(one, "delivered")
    world.sink.one_message = world.third.one_message = False
    assert taken(world.sink) > 0 and taken(world.third) > 0 and taken(world.sink) + taken(world.third) == 60


def test_C42_an_internationalised_domain_is_asked_for_as_A_labels(world):
    world.deliver(**mail("x@bücher.org"))
    (stored,) = world.postfix.wait_mail("x@xn--bcher-kva.org")
    assert b"for <x@xn--bcher-kva.org>" in stored


def test_a_host_that_does_not_answer_defers(world):
    message = world.send(**mail("x@down.org"))
    seen = world.wait_state(message["id"], "deferred")
    assert seen["recipients"][0]["refusal"]["class"] == "network"
    assert world.api().post(f"/v1/messages/{message['id']}/cancel").status_code == 200


def test_C28_mail_is_never_given_to_ourselves(world):
    # we are the best host of us.org: the worse one may not be asked (RFC 5321 5.1)
    seen = world.wait_final(world.send(**mail("x@us.org"))["id"])
    assert seen["state"] == "failed" and seen["recipients"][0]["refusal"]["class"] == "dns"


@pytest.mark.parametrize(
    "local, state, code, kind",
    [("nobody", "bounced", 550, "invalid_recipient"), ("later", "deferred", 450, None),
     ("full", "deferred", 452, "mailbox_full"), ("blocked", "bounced", 554, None)],
)  # fmt: skip
def test_what_the_server_says_decides(world, local, state, code, kind):
    message = world.send(**mail([f"{local}.a@far.org", f"good-beside-{local}@far.org"]))

    def settled():
        seen = world.message(message["id"])
        return seen if [one["state"] for one in seen["recipients"]] == [state, "delivered"] else None

    refusal = wait_until(settled, f"{state} beside delivered")["recipients"][0]["refusal"]
    assert refusal["code"] == code and refusal["stage"] == "rcpt" and refusal["mx"] == "mx.far.org"
    assert kind is None or refusal["class"] == kind
    world.postfix.wait_mail(f"good-beside-{local}@far.org")
    if state == "deferred":
        answer = world.api().post(f"/v1/messages/{message['id']}/cancel").json()
        assert [one["result"] for one in answer["recipients"]] in (["canceled", "final"], ["too_late", "final"])


def test_unicode_addresses_travel_where_they_are_understood(world):
    world.deliver(**mail("jörg@far.org"))
    wait_until(lambda: any("Delivered-To: jörg@far.org".encode() in stored for stored in world.postfix.mails()), "jörg's mail")


def test_a_large_message_arrives_octet_for_octet(world):
    import base64
    import email
    import random

    content = random.Random(7).randbytes(3_000_000)
    message = world.send(
        **mail("large@far.org", attachments=[{"filename": "a b.bin", "content": base64.b64encode(content).decode()}])
    )
    world.wait_state(message["id"], "delivered")
    (stored,) = world.postfix.wait_mail("large@far.org")
    parts = list(email.message_from_bytes(stored).walk())
    assert parts[-1].get_filename() == "a b.bin" and parts[-1].get_payload(decode=True) == content
    raw = world.api().get(f"/v1/messages/{message['id']}/raw").content
    assert stored.endswith(raw.replace(b"\r\n", b"\n"))


def test_C2_EHLO_says_our_full_host_name(world, postchute):
    world.deliver(**mail("name@second.org"))
    assert {session.ehlo for session in world.sink.sessions} == {"mail.sender.org"}
    for name in ("localhost", "mail", "sender_org.example", "-.example", "[192.0.2.1]", "a b.org", None):
        server = postchute(start=False, route="mx", hostname=name)
        server.write_declared()
        done = server.command("serve")
        assert done.returncode == 1 and "POSTCHUTE_HOSTNAME" in done.stderr, (name, done)


def test_C23_a_refused_MAIL_is_not_remembered_for_others(world):
    answers = iter(["550 5.7.1 not from you"])
    world.sink.on["MAIL"] = lambda session, argument: next(answers, None)
    try:
        seen = world.wait_final(world.send(**mail("first@second.org"))["id"])
        assert seen["recipients"][0]["state"] == "bounced" and seen["recipients"][0]["refusal"]["stage"] == "mail"
        world.deliver(**mail("next@second.org"))
    finally:
        del world.sink.on["MAIL"]


def test_C22_what_is_refused_for_now_is_tried_again_later(postchute, cleanly):
    sink = cleanly(Sink("11.22.1.45", "slow.test", on={"RCPT": "450 4.2.0 later"}))
    server = postchute(route=f"smtp://{sink.address}?tls=none", retry_after="200ms,400ms", give_up="2s")
    seen = server.wait_final(server.send(**{"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"})["id"])
    (recipient,) = seen["recipients"]
    assert recipient["state"] == "expired" and recipient["refusal"]["code"] == 450
    begun = [datetime.datetime.fromisoformat(attempt["started_at"].replace("Z", "+00:00")) for attempt in server.attempts(seen["id"])]
    waits = [(later - earlier).total_seconds() for earlier, later in zip(begun, begun[1:])]
    # never sooner than it says, less 15 % of jitter (and a millisecond of rounding)
    assert len(waits) >= 2 and waits[0] >= 0.169 and all(wait >= 0.339 for wait in waits[1:]), waits


def test_sessions_are_reused(world):
    before = len(world.sink.sessions)
    ids = [world.send(**mail(f"r{n}@second.org"))["id"] for n in range(20)]
    for one in ids:
        world.wait_state(one, "delivered")
    arrived = world.sink.wait(20, where=lambda message: message.rcpts[0].startswith("r") and message.rcpts[0].endswith("@second.org"))
    assert sorted(message.rcpts[0] for message in arrived) == sorted(f"r{n}@second.org" for n in range(20))
    assert len(world.sink.sessions) - before <= 10  # as many as one site may have, not one a message
    assert all(session.ehlo == "mail.sender.org" for session in world.sink.sessions[before:])


@pytest.mark.parametrize(
    "sender, code", [("a@unpublished.org", "domain_not_verified"), ("a@stranger.org", "domain_unknown")]
)
@pytest.mark.parametrize("field", ["from", "sender"])
def test_mx_routes_want_a_verified_domain(world, field, sender, code):
    answer = world.api().post("/v1/messages", json=mail("x@far.org", **{field: sender}))
    assert answer.status_code == 422, answer.text
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [("#/" + field, code)]


def test_the_published_key_is_the_one_that_is_used(world):
    """A key that was never published signs nothing: receivers would call the signature broken."""
    seen = json.dumps(domain(world, "unpublished.org")["dkim"])
    assert "published_at" not in seen

"""Receivers that lie, stall and break (T8): each of them makes the state that its behaviour deserves, and the process does
not mind."""

import json
import socket
import time

import pytest

from peers.hostile import HostileSMTP
from peers.postchute import Postchute
from peers.process import wait_until
from peers.sink import DROP, Sink

OK = "250 ok\r\n"


def to_rcpt(talk):
    talk.hello()
    talk.expect("MAIL")
    talk.send(OK)
    talk.expect("RCPT")


def to_data(talk):
    to_rcpt(talk)
    talk.send(OK)
    talk.expect("DATA")


def to_dot(talk):
    to_data(talk)
    talk.send("354 go\r\n")
    talk.expect_data()


SCRIPTS = {}


def script(state, kind=None, stage=None, limit=None):
    """Registers a script with the outcome that it must have, and with the time limit that ends it; without one, it is ended for what it says."""
    assert (state == "delivered") == (stage is None) == (kind is None)

    def register(function):
        SCRIPTS[function.__name__.replace("_", "-")] = (function, state, kind, stage, limit)
        return function

    return register


def flood(talk, piece, most):
    for _ in range(most // len(piece) + 1):
        talk.send(piece)


@script("deferred", "protocol", "greeting")
def endless_greeting(talk):
    flood(talk, "220-welcome\r\n" * 1000, 50_000_000)


@script("deferred", "protocol", "greeting")
def ten_megabytes_in_a_line(talk):
    talk.send("220 ")
    flood(talk, "a" * 65536, 10_000_000)


@script("deferred", "protocol", "ehlo")
def a_million_lines(talk):
    talk.send("220 mx\r\n")
    talk.expect("EHLO")
    flood(talk, "250-X\r\n" * 1000, 7_000_000)


@script("deferred", "protocol", "ehlo")
def another_code_inside_a_reply(talk):
    talk.send("220 mx\r\n")
    talk.expect("EHLO")
    talk.send("250-mx\r\n220-SIZE\r\n250 HELP\r\n")
    talk.until_closed()


@script("deferred", "protocol", "greeting")
def http(talk):
    talk.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    talk.until_closed()


@script("deferred", "protocol", "greeting")
def binary(talk):
    talk.send(bytes(range(256)) * 20)
    talk.until_closed()


@script("deferred", "protocol", "mail")
def code_600(talk):
    talk.hello()
    talk.expect("MAIL")
    talk.send("600 ok\r\n")
    talk.until_closed()


@script("deferred", "protocol", "mail")
def go_ahead_to_mail(talk):
    talk.hello()
    talk.expect("MAIL")
    talk.send("354 go ahead\r\n")
    talk.until_closed()


@script("deferred", "protocol", "data")
def accepted_to_data(talk):
    to_data(talk)
    talk.send(OK)
    talk.until_closed()


@script("deferred", "protocol", "rcpt")
def one_reply_too_many(talk):
    to_rcpt(talk)
    talk.send(OK + OK)
    talk.expect("DATA")
    talk.until_closed()


@script("deferred", "protocol", "greeting")
def everything_is_said_beforehand(talk):
    talk.send("220 mx\r\n250 mx\r\n250 ok\r\n250 ok\r\n354 go\r\n250 kept\r\n")
    talk.until_closed()


@script("delivered")
def one_octet_a_segment(talk):
    talk.drip("220-mx.hostile.test\r\n220 ESMTP\r\n", 0.001)
    talk.expect("EHLO")
    talk.drip("250-mx\r\n250 8BITMIME\r\n", 0.001)
    talk.expect("MAIL")
    talk.drip(OK)
    talk.expect("RCPT")
    talk.drip(OK)
    talk.expect("DATA")
    talk.drip("354 go\r\n")
    talk.expect_data()
    talk.drip("250 2.0.0 kept\r\n", 0.001)


@script("delivered")
def octets_that_are_no_text(talk):
    to_dot(talk)
    talk.send(b"250 2.0.0 kept \xff\xfe\x1b[31m \xc3\x28 <script>\r\n")


@script("delivered")
def bare_codes(talk):
    talk.send("220\r\n")
    talk.expect("EHLO")
    talk.send("250\r\n")
    talk.expect("MAIL")
    talk.send("250\r\n")
    talk.expect("RCPT")
    talk.send("251\r\n")
    talk.expect("DATA")
    talk.send("354\r\n")
    talk.expect_data()
    talk.send("250\r\n")


@script("delivered")
def helo_only(talk):
    talk.send("220 old\r\n")
    talk.expect("EHLO")
    talk.send("502 what?\r\n")
    talk.expect("HELO")
    talk.send("250 old\r\n")
    talk.expect("MAIL")
    talk.send(OK)
    talk.expect("RCPT")
    talk.send(OK)
    talk.expect("DATA")
    talk.send("354 go\r\n")
    talk.expect_data()
    talk.send(OK)


@script("deferred", "other", "greeting")
def no_service(talk):
    talk.send("554 no service\r\n")
    talk.until_closed()


@script("deferred", "rate_limited", "greeting")
def busy(talk):
    talk.send("421 4.3.2 too many connections\r\n")


@script("bounced", "other", "end")
def refused_after_the_dot(talk):
    to_dot(talk)
    talk.send("554 5.6.0 not that\r\n")


@script("deferred", "network", "greeting")
def closed_at_connect(talk):
    talk.drop()


@script("deferred", "network", "greeting")
def reset_at_connect(talk):
    talk.reset()


@script("deferred", "network", "greeting")
def reset_inside_the_greeting(talk):
    talk.send("220-mx\r\n22")
    talk.reset()


@script("deferred", "network", "rcpt")
def reset_at_rcpt(talk):
    to_rcpt(talk)
    talk.reset()


@script("deferred", "network", "data")
def closed_at_data(talk):
    to_data(talk)
    talk.drop()


LARGE = ["reset-inside-the-message"]  # more than the kernels between hold, so that it is still under way


@script("deferred", "network", "body")
def reset_inside_the_message(talk):
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    to_data(talk)
    talk.send("354 go\r\n")
    talk._fill()
    talk.reset()


@script("deferred", "network", "end")
def closed_after_the_dot(talk):
    to_dot(talk)
    talk.drop()


@script("deferred", "network", "end")
def half_a_reply_after_the_dot(talk):
    to_dot(talk)
    talk.send("250 2.0")
    talk.drop()


@script("deferred", "network", "greeting", limit="greeting")
def silent_at_connect(talk):
    talk.until_closed()


@script("deferred", "network", "ehlo", limit="ehlo")
def silent_at_ehlo(talk):
    talk.send("220 mx\r\n")
    talk.until_closed()


@script("deferred", "network", "mail", limit="mail")
def silent_at_mail(talk):
    talk.hello()
    talk.until_closed()


@script("deferred", "network", "rcpt", limit="rcpt")
def silent_at_rcpt(talk):
    to_rcpt(talk)
    talk.until_closed()


@script("deferred", "network", "data", limit="data")
def silent_at_data(talk):
    to_data(talk)
    talk.until_closed()


@script("deferred", "network", "end", limit="end")
def silent_after_the_dot(talk):
    to_dot(talk)
    talk.until_closed()


@script("deferred", "tls", "tls")
def a_handshake_that_never_ends(talk):
    """Messages that a client has to ignore, as fast as it takes them."""
    talk.hello("STARTTLS")
    talk.expect("STARTTLS")
    talk.send("220 go\r\n")
    talk._fill()
    while True:
        talk.send(b"\x16\x03\x03\x40\x00" + bytes(16384))


@script("deferred", "network", "greeting", limit="greeting")
def a_greeting_that_never_ends(talk):
    while True:
        talk.send("220-wait\r\n")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def peers():
    made = {}
    for number, (name, (function, *_)) in enumerate(SCRIPTS.items()):
        made[name] = HostileSMTP(f"11.22.2.{number + 1}", function).start()
    yield made
    failures = [(name, peer.failures) for name, peer in made.items() if peer.failures]
    for peer in made.values():
        peer.failures.clear()
        peer.stop()
    assert not failures


# No other limit is below 20 s: an attempt that took this long was ended by its own, or by none.
LIMIT_MS, LONGEST_MS = 700, 15_000


@pytest.fixture(scope="module")
def servers(peers):
    """For each limit a server on which it is low, and it alone, with the receivers that it ends; None: one with the usual limits."""
    made = {}
    for limit in dict.fromkeys(limit for *_, limit in SCRIPTS.values()):
        server = made[limit] = Postchute(route="sandbox", retry_after="60s", **({f"smtp_{limit}_timeout": f"{LIMIT_MS}ms"} if limit else {}))
        server.declared["routes"] = [
            {"name": name, "smarthosts": [f"smtp://{peer.address}?tls={'encrypt' if 'handshake' in name else 'none'}"]}
            for name, peer in peers.items() if SCRIPTS[name][-1] == limit
        ]
        server.start()
        # all at once: each waits for its own receiver
        server.sent = {
            route["name"]: server.send(**{"from": "a@acme.test", "to": "b@far.test", "subject": "s",
                                          "text": "t\n" * (4_000_000 if route["name"] in LARGE else 2000), "route": route["name"]})["id"]
            for route in server.declared["routes"]
        }  # fmt: skip
    yield made
    for server in made.values():
        server.stop()


@pytest.mark.parametrize("name", SCRIPTS)
def test_T8_a_receiver_gets_the_state_that_it_deserves(servers, name):
    _, state, kind, stage, limit = SCRIPTS[name]
    server = servers[limit]

    def settled():
        (recipient,) = server.message(server.sent[name])["recipients"]
        return recipient if recipient["state"] not in ("queued", "sending") else None

    recipient = wait_until(settled, f"an attempt at {name}", timeout=60)
    assert recipient["state"] == state and recipient["attempts"] == 1, recipient
    if state != "delivered":
        refusal = recipient["refusal"]
        assert (refusal["class"], refusal["stage"]) == (kind, stage)
    # only who may have the message is said to have it perhaps
    assert recipient.get("possible_duplicate", False) == (state == "deferred" and stage == "end"), recipient
    (attempt,) = server.attempts(server.sent[name])
    assert len(attempt["transcript"]) < 64 * 1024
    assert (LIMIT_MS // 2 if limit else 0) <= attempt["took_ms"] <= LONGEST_MS


def test_T8_the_process_did_not_mind(servers):
    for server in servers.values():
        assert server.process.popen.poll() is None
        assert server.ready()
        assert server.metric("postchute_outbox_balance") == 0
        seen = server.deliver(**{"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"})
        assert seen["recipients"][0]["smtp"]["code"] == 250


def test_T8_what_the_receiver_said_is_harmless_where_it_is_shown(servers):
    server = servers[None]
    seen = server.wait_state(server.sent["octets-that-are-no-text"], "delivered")
    text = seen["recipients"][0]["smtp"]["text"]
    assert text.startswith("kept") and "\x1b" not in text and "<script>" in text  # JSON: whoever shows it escapes it
    for line in server.log().splitlines():
        json.loads(line)
        assert "\x1b" not in line and "\\u001b" not in line


# what a server says in a short dialogue, each after what it waits for
DIALOGUE = [(None, "220 mx\r\n"), ("EHLO", "250 mx\r\n"), ("MAIL", OK), ("RCPT", OK), ("DATA", "354 go\r\n"), ("dot", "250 ok\r\n")]
OCTETS = sum(len(reply) for _, reply in DIALOGUE)


def resets_after(octets):
    """A script that says so many octets of the dialogue, and then resets the connection."""

    def talk_until(talk):
        left = octets
        for waits_for, reply in DIALOGUE:
            if waits_for == "dot":
                talk.expect_data()
            elif waits_for:
                talk.expect(waits_for)
            if left < len(reply):
                talk.send(reply[:left])
                talk.reset()
            talk.send(reply)
            left -= len(reply)
        talk.until_closed()

    return talk_until


def test_C18_T8_a_reset_at_any_octet_is_a_deferral(postchute, cleanly):
    peers = [cleanly(HostileSMTP(f"11.22.9.{n + 1}", resets_after(n))) for n in range(OCTETS + 1)]
    server = postchute(start=False, route="sandbox", retry_after="60s")
    server.declared["routes"] = [{"name": f"after-{n}", "smarthosts": [f"smtp://{peer.address}?tls=none"]} for n, peer in enumerate(peers)]
    server.start()
    ids = [send(server, "a@far.test", route=f"after-{n}") for n in range(OCTETS + 1)]
    for n, one in enumerate(ids):
        seen = server.wait_state(one, lambda state: state not in ("queued", "sending"))
        (recipient,) = seen["recipients"]
        assert recipient["state"] == ("delivered" if n == OCTETS else "deferred"), (n, recipient)
        # from the last 354 on the message was sent as a whole: nobody knows what became of it
        has_it_perhaps = OCTETS - len(DIALOGUE[-1][1]) <= n < OCTETS
        assert recipient.get("possible_duplicate", False) == has_it_perhaps, (n, recipient)
    assert server.metric("postchute_outbox_balance") == 0 and server.ready()


# ---- several recipients ---------------------------------------------------------------------------------------------


def refuse(*locals_):
    def answer(session, argument):
        return next((reply for local, reply in locals_ if f"<{local}@" in argument), None)

    return answer


def send(server, to, **more):
    return server.send(**{"from": "a@acme.test", "to": to, "subject": "s", "text": "t", **more})["id"]


def test_each_recipient_has_its_own_outcome(postchute, cleanly):
    sink = cleanly(Sink("11.22.2.201", on={"RCPT": refuse(("bad", "550 5.1.1 unknown"), ("busy", "451 4.3.0 later"))}))
    server = postchute(route=f"smtp://{sink.address}?tls=none", retry_after="60s")
    message = send(server, ["good@far.test", "bad@far.test", "busy@far.test"])
    seen = wait_until(
        lambda: (m := server.message(message))["recipients"][0]["state"] == "delivered" and m, "the good one's delivery"
    )
    assert [one["state"] for one in seen["recipients"]] == ["delivered", "bounced", "deferred"]
    assert sink.ledger[0].rcpts == ["good@far.test"]
    assert seen["state"] in ("deferred", "partial", "queued", "sending")  # while one of them is under way


def test_too_many_recipients_go_on_at_once(postchute, cleanly):
    """452 to the third RCPT: the others follow in transactions of their own, and nobody's attempt is wasted (RFC 5321
    4.5.3.1.10)."""
    def most_two(session, argument):
        session.taken = getattr(session, "taken", 0) + 1
        return "452 4.5.3 too many recipients" if session.taken > 2 else None

    def begin(session, argument):
        session.taken = 0

    sink = cleanly(Sink("11.22.2.202", on={"RCPT": most_two, "MAIL": begin}))
    server = postchute(route=f"smtp://{sink.address}?tls=none", retry_after="60s")
    to = [f"r{n}@far.test" for n in range(5)]
    seen = server.wait_state(send(server, to), "delivered", timeout=15)
    assert sorted(sum((message.rcpts for message in sink.ledger), [])) == to
    assert [len(message.rcpts) for message in sink.ledger] == [2, 2, 1]
    assert all(one["attempts"] == 1 for one in seen["recipients"])


def test_a_lost_connection_is_tried_again_and_delivered_once_more_at_most(postchute, cleanly):
    """The answer to the final dot is lost: the second copy has the same Message-ID and says what it may be."""
    answers = iter([DROP])
    sink = cleanly(Sink("11.22.2.203", on={"end": lambda session, message: next(answers, None)}))
    server = postchute(route=f"smtp://{sink.address}?tls=none", retry_after="200ms")
    message = send(server, "a@far.test")
    seen = server.wait_state(message, "delivered")
    assert len(sink.ledger) == 2
    ids = {line for one in sink.ledger for line in one.data.split(b"\r\n") if line.lower().startswith(b"message-id:")}
    assert ids == {b"Message-ID: " + seen["message_id"].encode()}
    assert seen["recipients"][0]["attempts"] == 2 and seen["recipients"][0]["possible_duplicate"]
    delivered = [event for event in server.events(message) if event["type"] == "recipient.delivered"]
    assert delivered[0]["data"]["possible_duplicate"] is True


def test_a_deferred_message_expires(postchute, cleanly):
    sink = cleanly(Sink("11.22.2.204", on={"RCPT": "451 4.3.0 later"}))
    server = postchute(route=f"smtp://{sink.address}?tls=none", retry_after="200ms")
    message = send(server, "a@far.test", expires_in=1)
    seen = server.wait_final(message)
    (recipient,) = seen["recipients"]
    assert recipient["state"] == "expired" and recipient["attempts"] >= 2
    assert recipient["refusal"]["code"] == 451  # what was last heard
    assert [event["type"] for event in server.events(message)][-2:] == ["recipient.expired", "message.completed"]
    assert all(attempt["started_at"] <= seen["expires_at"] for attempt in server.attempts(message))  # never late


# ---- blind copies ---------------------------------------------------------------------------------------------------


def test_T12_a_blind_copy_is_in_no_octet_of_any_message(postchute, cleanly):
    """T12. The address may stand in its own RCPT, and nowhere else."""
    sink = cleanly(Sink("11.22.2.205"))
    server = postchute(route=f"smtp://{sink.address}?tls=none")
    ids = []
    for n in range(40):
        fields = {"to": [f"to{n}@far.test"], "bcc": [f"Secret <blind{n}@far.test>", f"blind-x{n}@near.test"]}
        if n % 3 == 0:
            fields["cc"] = [f"cc{n}@near.test"]
        if n % 5 == 0:
            fields.pop("to")
        ids.append(server.send(**{"from": "a@acme.test", "subject": f"n {n}", "html": "<p>x</p>", **fields})["id"])
    for one in ids:
        server.wait_state(one, "delivered")
    received = [rcpt for message in sink.ledger for rcpt in message.rcpts]
    assert sorted(rcpt for rcpt in received if rcpt.startswith("blind")) == sorted(
        address for n in range(40) for address in (f"blind{n}@far.test", f"blind-x{n}@near.test")
    )
    for message in sink.ledger:
        assert b"blind" not in message.wire.lower() and b"secret" not in message.wire.lower()
        assert b"\r\nbcc" not in message.wire.lower()

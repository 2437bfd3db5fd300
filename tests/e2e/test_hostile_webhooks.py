"""Receivers of webhooks that lie, stall and break (T19, T32): each gets the verdict that it deserves when the program's own time for it is over,
and the others do not feel it.

Each script serves one endpoint, to which one event goes. No script but those that are to be judged by what they close closes its
connection: that it ends is the program's doing. That a deadline ended it is in the verdict's words; what is ended for what it says goes to a
server whose deadline is a minute, and has to be over long before.
"""

import gzip
import re
from datetime import datetime

import pytest

from peers.hostile import HostileSMTP
from peers.postchute import Postchute
from peers.process import wait_until
from peers.sink import Sink
from peers.webhook import WebhookReceiver

LATE = "no complete answer in time"
UNCONNECTED = "timeout while connecting|SSL connection timeout"
ROWS = {}


def row(state, status=None, error=None, tls=None, delay_s=None):
    """Registers a script with what must be in the delivery log: its state, the status, a pattern of the error, and what the next
    attempt waits for."""

    def register(function):
        ROWS[function.__name__.replace("_", "-")] = (function, state, status, error, tls, delay_s)
        return function

    return register


def answer(status="200 OK", body=b"", **fields):
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def flood(talk, piece, most=50_000_000):
    """Until the other side goes: where there is a limit, long before the end."""
    sent = 0
    while most is None or sent < most:
        talk.send(piece)
        sent += len(piece)
    raise AssertionError(f"took {sent} octets")


# ---- says nothing, or too little at a time


@row("pending", error=LATE)
def never_answers(talk):
    talk.request()
    talk.until_closed()


@row("pending", error=LATE)
def never_reads(talk):
    while talk.socket.recv(1):  # an octet now and then, so that the connection is alive
        pause(talk)


@row("pending", error=LATE)
def an_octet_at_a_time(talk):
    talk.request()
    while True:
        for octet in answer("200 OK", Server="x" * 100):
            talk.send(bytes([octet]))
            pause(talk)


@row("pending", error=LATE)
def a_header_at_a_time(talk):
    talk.request()
    talk.send("HTTP/1.1 200 OK\r\n")
    while True:
        talk.send("X-More: yes\r\n")
        pause(talk)


@row("pending", error=LATE)
def a_body_that_does_not_come(talk):
    talk.request()
    talk.send(answer(Content_Length=10))
    talk.until_closed()


@row("pending", error=LATE)
def chunks_one_octet_at_a_time(talk):
    talk.request()
    talk.send(answer(Transfer_Encoding="chunked"))
    while True:
        talk.send("1\r\nx\r\n")
        pause(talk)


@row("pending", error=LATE)
def interim_answers_now_and_then(talk):
    talk.request()
    while True:
        talk.send(answer("100 Continue"))
        pause(talk)


@row("pending", error=LATE)
def switches_protocols_and_is_silent(talk):
    talk.request()
    talk.send(answer("101 Switching Protocols", Upgrade="websocket", Connection="Upgrade"))
    talk.until_closed()


def pause(talk):
    """A tenth of a second, or the end of the connection."""
    talk.socket.settimeout(0.1)
    try:
        talk._fill()
    except TimeoutError:
        pass
    talk.socket.settimeout(60)


# ---- says too much


@row("pending", error=".")
def headers_without_end(talk):
    talk.request()
    talk.send("HTTP/1.1 200 OK\r\n")
    flood(talk, b"X-More: and more\r\n" * 1000)


@row("pending", error=".")
def a_header_without_end(talk):
    talk.request()
    talk.send("HTTP/1.1 200 OK\r\nX-Long: ")
    flood(talk, b"x" * 65536)


@row("pending", error=".")
def a_status_line_without_end(talk):
    talk.request()
    talk.send("HTTP/1.1 200 ")
    flood(talk, b"O" * 65536)


@row("pending", error=".")
def interim_answers_without_end(talk):
    talk.request()
    flood(talk, answer("103 Early Hints", Link="</x>") * 1000)


@row("delivered", status=200)
def a_body_without_end(talk):
    """The status counts; of what follows no more is read than is kept."""
    talk.request()
    talk.send(answer(Connection="close"))
    flood(talk, b"x" * 65536)


@row("pending", status=500)
def an_error_without_end(talk):
    talk.request()
    talk.send(answer("500 no", Connection="close"))
    flood(talk, b"x" * 65536)


@row("delivered", status=200)
def chunks_without_end(talk):
    talk.request()
    talk.send(answer(Transfer_Encoding="chunked"))
    flood(talk, (b"%x\r\n" % 65536) + b"x" * 65536 + b"\r\n")


@row("pending", error=".")
def trailers_without_end(talk):
    talk.request()
    talk.send(answer(Transfer_Encoding="chunked", Trailer="X-More") + b"1\r\nx\r\n0\r\n")
    flood(talk, b"X-More: and more\r\n" * 1000)


@row("pending", error=LATE)
def a_chunk_extension_without_end(talk):
    talk.request()
    talk.send(answer(Transfer_Encoding="chunked") + b"1;x=")
    flood(talk, b"x" * 65536, None)  # only time limits it


@row("delivered", status=200)
def a_gzip_bomb(talk):
    """Ten megabytes in ten thousand octets: nobody unpacks it."""
    bomb = gzip.compress(b"\0" * 10_000_000)
    talk.request()
    talk.send(answer(body=bomb, Content_Encoding="gzip", Content_Length=len(bomb)))
    talk.until_closed()


@row("delivered", status=200)
def encodings_upon_encodings(talk):
    talk.request()
    talk.send(answer(body=b"x", Content_Encoding=", ".join(["gzip"] * 1000), Content_Length=1))
    talk.until_closed()


# ---- lies about lengths


@row("pending", error=".")
def a_length_that_is_not_kept(talk):
    talk.request()
    talk.send(answer(body=b"x", Content_Length=10))
    talk.drop()


@row("pending", error=LATE)
def a_huge_length(talk):
    talk.request()
    talk.send(answer(body=b"x", Content_Length=10**15))
    talk.until_closed()


@row("pending", error=LATE)
def a_length_beyond_numbers(talk):
    talk.request()
    talk.send(answer(body=b"x", Content_Length="9" * 40))
    talk.until_closed()


@row("pending", error=".")
def a_negative_length(talk):
    talk.request()
    talk.send(answer(body=b"x", Content_Length=-1))
    talk.until_closed()


@row("delivered", status=200)
def more_than_its_length(talk):
    talk.request()
    talk.send(answer(body=b"x" * 5000, Content_Length=5))
    talk.until_closed()


@row("pending", error=".")
def a_chunk_size_that_is_no_number(talk):
    talk.request()
    talk.send(answer(Transfer_Encoding="chunked") + b"zz\r\n")
    talk.until_closed()


@row("pending", error=".")
def a_chunk_size_beyond_numbers(talk):
    talk.request()
    talk.send(answer(Transfer_Encoding="chunked") + b"f" * 40 + b"\r\n")
    talk.until_closed()


# ---- is no HTTP, or half of it


@row("pending", error=".")
def nothing_of_http(talk):
    talk.request()
    talk.send("220 mx.evil.test ESMTP\r\n")
    talk.until_closed()


@row("pending", error=".")
def octets_of_all_kinds(talk):
    talk.request()
    talk.send(bytes(range(256)) * 20)
    talk.until_closed()


@row("pending", error=".")
def a_status_of_four_digits(talk):
    talk.request()
    talk.send(answer("2000 OK", Content_Length=0))
    talk.until_closed()


@row("pending", error="a status that is no answer")
def a_status_beyond_all(talk):
    talk.request()
    talk.send(answer("999 what", Content_Length=0))
    talk.until_closed()


@row("pending", error=".")
def a_negative_status(talk):
    talk.request()
    talk.send(answer("-200 OK", Content_Length=0))
    talk.until_closed()


@row("pending", error=".")
def a_version_from_the_future(talk):
    talk.request()
    talk.send(b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n")
    talk.until_closed()


@row("pending", error=".")
def another_protocol_with_the_same_status(talk):
    talk.request()
    talk.send(b"ICY 200 OK\r\nContent-Length: 0\r\n\r\n")
    talk.until_closed()


@row("pending", error=".")
def closes_at_once(talk):
    talk.drop()


@row("pending", error=".")
def closes_after_the_request(talk):
    talk.request()
    talk.drop()


@row("pending", error=".")
def closes_inside_the_status_line(talk):
    talk.request()
    talk.send("HTTP/1.1 20")
    talk.drop()


@row("pending", error=".")
def closes_inside_the_header(talk):
    talk.request()
    talk.send("HTTP/1.1 200 OK\r\nX-Half: ye")
    talk.drop()


@row("pending", error=".")
def closes_before_the_empty_line(talk):
    talk.request()
    talk.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n")
    talk.drop()


@row("pending", error=".")
def resets_at_once(talk):
    talk.reset()


@row("pending", error=".")
def resets_after_the_request(talk):
    talk.request()
    talk.reset()


@row("pending", error=".")
def resets_inside_the_body(talk):
    talk.request()
    talk.send(answer(body=b"x", Content_Length=10))
    talk.reset()


# ---- leads somewhere else: followed nowhere (the recorder on those addresses sees nobody)

PRIVATE = "127.0.0.9"


@row("pending", status=302)
def to_a_private_address(talk):
    talk.request()
    talk.send(answer("302 Found", Location=f"http://{PRIVATE}/", Content_Length=0))
    talk.until_closed()


@row("pending", status=307)
def to_the_metadata_of_a_cloud(talk):
    talk.request()
    talk.send(answer("307 There", Location="http://169.254.169.254/latest/meta-data/", Content_Length=0))
    talk.until_closed()


@row("pending", status=308)
def in_a_circle(talk):
    talk.request()
    talk.send(answer("308 Here", Location="/hook", Content_Length=0))
    talk.until_closed()


@row("pending", status=303)
def to_a_file(talk):
    talk.request()
    talk.send(answer("303 See", Location="file:///etc/passwd", Content_Length=0))
    talk.until_closed()


@row("pending", status=305)
def by_a_proxy(talk):
    talk.request()
    talk.send(answer("305 Use Proxy", Location=f"http://{PRIVATE}/", Content_Length=0))
    talk.until_closed()


@row("pending", status=401)
def wants_to_know_who_we_are(talk):
    talk.request()
    talk.send(answer("401 no", WWW_Authenticate="Negotiate", Content_Length=0))
    talk.until_closed()


# ---- asks for another time: after the first attempt 5 s are usual, and a day is the most

USUAL, DAY = (4, 6), (86400 - 5, 86400 + 5)


def later(status, value, delay_s):
    def script(talk):
        talk.request()
        talk.send(answer(status, Retry_After=value, Content_Length=0))
        talk.until_closed()

    script.__name__ = f"later_{status[:3]}_{re.sub(r'[^a-z0-9]+', '_', str(value).lower())[:30]}"
    row("pending", status=int(status[:3]), delay_s=delay_s)(script)


for _status in ("429 slower", "503 busy"):
    later(_status, 600, (595, 605))
    later(_status, -600, USUAL)
    later(_status, 0, USUAL)
    later(_status, "9" * 30, DAY)
    later(_status, "soon", USUAL)
    later(_status, "", USUAL)
    later(_status, "600, 700", USUAL)
    later(_status, "Fri, 31 Dec 9999 23:59:59 GMT", DAY)
    later(_status, "Thu, 01 Jan 1970 00:00:00 GMT", USUAL)
    later(_status, "Fri, 31 Dec 99999999999 23:59:59 GMT", USUAL)


# ---- TLS


@row("pending", error="ertificate", tls="wrong name")
def shows_a_certificate_of_somebody_else(talk):
    talk.starttls()
    raise AssertionError("it was told " + talk.line())


@row("pending", error="ertificate", tls="expired")
def shows_an_old_certificate(talk):
    talk.starttls()
    raise AssertionError("it was told " + talk.line())


@row("pending", error="ertificate", tls="not yet")
def shows_a_certificate_of_tomorrow(talk):
    talk.starttls()
    raise AssertionError("it was told " + talk.line())


@row("pending", error="ertificate", tls="self-signed")
def shows_a_certificate_of_its_own(talk):
    talk.starttls()
    raise AssertionError("it was told " + talk.line())


@row("pending", error=UNCONNECTED, tls="good")
def is_silent_in_the_handshake(talk):
    talk.until_closed()


@row("pending", error=UNCONNECTED, tls="good")
def half_a_server_hello(talk):
    talk._fill()
    talk.send(b"\x16\x03\x03\x01\x00\x02\x00\x00\xfc\x03\x03")
    talk.until_closed()


@row("pending", error=".", tls="good")
def an_endless_handshake(talk):
    talk._fill()
    flood(talk, b"\x16\x03\x03\x40\x00" + b"\x00" * 16384, None)


@row("pending", error=".", tls="good")
def speaks_http_where_tls_should_be(talk):
    talk._fill()
    talk.send(answer(Content_Length=0))
    talk.until_closed()


@row("pending", error=LATE, tls="good")
def is_silent_within_tls(talk):
    talk.starttls()
    talk.request()
    talk.until_closed()


@row("pending", error=".", tls="good")
def ends_tls_without_an_answer(talk):
    talk.starttls()
    talk.request()
    talk.socket.unwrap()


@row("delivered", status=200, tls="good")
def forgets_to_end_tls(talk):
    """The answer was whole by its length."""
    talk.starttls()
    talk.request()
    talk.send(answer(body=b"ok", Content_Length=2))
    talk.drop()


# ---- and those that are only slow, or odd


@row("delivered", status=200)
def an_answer_octet_by_octet(talk):
    talk.request()
    talk.drip(answer(body=b"ok", Content_Length=2))
    talk.until_closed()


@row("delivered", status=204)
def interim_answers_before_the_real_one(talk):
    talk.request()
    talk.send(answer("100 Continue") + answer("102 Processing") + answer("103 Early Hints") + answer("204 No Content"))
    talk.until_closed()


@row("delivered", status=200)
def a_body_until_the_end(talk):
    talk.request()
    talk.send(b"HTTP/1.0 200 OK\r\n\r\nok")
    talk.drop()


@row("delivered", status=200)
def an_answer_before_the_request_was_read(talk):
    talk.send(answer(body=b"ok", Content_Length=2, Connection="close"))
    talk.until_closed()


# ---------------------------------------------------------------------------------------------------------------------


def certificate_of(ca, kind, address):
    if kind == "wrong name":
        return ca.issue("somebody.else.test")
    return ca.issue(address, expired=kind == "expired", not_yet=kind == "not yet", self_signed=kind == "self-signed")


# Of the server with those that only time ends, and of the other: what it is over within is far from the other's, and from all else that
# waits (20 s for a name).
TIMEOUT_S, LONGEST_MS = {True: 1, False: 60}, 15_000


def is_timed_out(name):
    return ROWS[name][3] in (LATE, UNCONNECTED)


@pytest.fixture(scope="module")
def attacked(ca):
    """Two servers, by whether time alone ends their rows, each with a healthy one; private addresses that nobody may be led to; to each endpoint
    went one event."""
    from test_webhooks import Recorder, subscribe

    peers, sink = {}, Sink("11.22.7.250").start()
    for number, (name, (script, _, _, _, tls, _)) in enumerate(ROWS.items()):
        address = f"127.0.7.{number + 1}"
        peers[name] = HostileSMTP(address, script, port=443 if tls else 80, certificate=certificate_of(ca, tls, address) if tls else None).start()
    healthy = WebhookReceiver("127.0.8.1", port=80).start()
    private = [Recorder(PRIVATE, port).start() for port in (80, 443)]
    made = {}
    for is_timed, timeout_s in TIMEOUT_S.items():
        server = made[is_timed] = Postchute(
            route=f"smtp://{sink.address}?tls=none", ca_file=ca.directory / "ca.pem", webhook_timeout=f"{timeout_s}s",
            webhook_networks=["127.0.7.0/24", "127.0.8.1/32"],
            webhook_http_hosts=["127.0.8.1", "127.0.8.2", *(peer.address for peer in peers.values())],
        )  # fmt: skip
        server.start()
        server.hooks = {
            name: subscribe(server, f"http{'s' if ROWS[name][4] else ''}://{peer.address}/hook", events=["message.completed"])
            for name, peer in peers.items() if is_timed_out(name) == is_timed
        }
        server.healthy, server.peers, server.private = healthy, peers, private
        subscribe(server, healthy.url(), events=["message.completed"])
        server.deliver(**{"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"})
        server.entries = {}  # as they were after the first attempt: the second comes 5 s later
    wait_until(lambda: all([entry_of(made[is_timed_out(name)], name) for name in ROWS]), "an attempt at each", timeout=90)
    yield made
    failures = [(name, list(peer.failures)) for name, peer in peers.items() if peer.failures]
    for server in made.values():
        server.stop()
    for peer in peers.values():
        peer.failures.clear()
        peer.stop()
    for peer in (healthy, sink, *private):
        peer.stop()
    assert not failures


def entry_of(server, name):
    """What the delivery log says once an attempt was made."""
    if name not in server.entries:
        (entry,) = server._list(f"/v1/webhooks/{server.hooks[name]['id']}/deliveries")
        if entry["attempts"] == 0 or entry["state"] == "sending":
            return None
        server.entries[name] = entry
    return server.entries[name]


def delay_of(entry):
    return (datetime.fromisoformat(entry["next_attempt_at"]) - datetime.fromisoformat(entry["updated_at"])).total_seconds()


@pytest.mark.parametrize("name", ROWS)
def test_T19_a_hostile_endpoint_gets_the_verdict_that_it_deserves(attacked, name):
    _, state, status, error, _, delay_s = ROWS[name]
    entry = entry_of(attacked[is_timed_out(name)], name)
    said = entry.get("error") or ""
    assert (entry["state"], entry["status"]) == (state, status), entry
    assert not said if error is None else re.search(error, said), entry
    assert len(entry.get("response") or "") <= 4096
    if delay_s:
        assert delay_s[0] <= delay_of(entry) <= delay_s[1], entry
    assert (TIMEOUT_S[True] * 500 if is_timed_out(name) else 0) <= entry["took_ms"] <= LONGEST_MS, entry
    # an attempt is one connection, but where one that was kept is found closed
    assert len(attacked[True].peers[name].sessions) <= 2 * entry["attempts"], entry


def test_T19_none_of_them_led_anywhere_and_the_healthy_one_was_told(attacked):
    calls = attacked[True].healthy.wait(len(attacked))
    assert {call.json()["type"] for call in calls} == {"message.completed"}
    assert [recorder.connections for recorder in attacked[True].private] == [0, 0]
    assert all(server.process.popen.poll() is None and server.ready() for server in attacked.values())


def test_T32_endpoints_that_hang_take_no_time_from_a_healthy_one(attacked):
    """Every event goes to all of them; what the healthy one gets is not held up until the others' time is over, again and again."""
    attacked = attacked[True]
    before = len(attacked.healthy.calls)
    for _ in range(40):
        attacked.deliver(**{"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"})
    attacked.healthy.wait(before + 40, timeout=30)
    hanging = [name for name, (_, _, _, error, *_) in ROWS.items() if error == LATE]
    waiting = sum(1 for name in hanging for entry in attacked._list(f"/v1/webhooks/{attacked.hooks[name]['id']}/deliveries")
                  if entry["attempts"] == 0)  # fmt: skip
    assert waiting > 0, "the hanging ones were through before: nothing was shown"


def test_T19_a_connection_that_was_kept_may_be_gone(postchute, cleanly, ca):
    """It answers and says that it keeps the connection, then closes it when the next request is on it."""
    from test_webhooks import subscribe

    def lies(talk):
        talk.request()
        talk.send(answer(Content_Length=0, Connection="keep-alive"))
        talk.line()  # the beginning of the next one
        talk.reset()

    def speaks_out_of_turn(talk):
        while True:
            talk.request()
            talk.send(answer(Content_Length=0) + answer("500 the answer to what you did not ask", Content_Length=0))

    peers = [cleanly(HostileSMTP(f"127.0.7.{240 + n}", script, port=80)) for n, script in enumerate((lies, speaks_out_of_turn))]
    sink = cleanly(Sink("11.22.7.249"))
    server = postchute(route=f"smtp://{sink.address}?tls=none", webhook_networks=["127.0.7.0/24"],
                       webhook_http_hosts=[peer.address for peer in peers])  # fmt: skip
    hooks = [subscribe(server, f"http://{peer.address}/hook", events=["message.completed"]) for peer in peers]
    for number in range(1, 5):
        server.deliver(**{"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"})
        for hook in hooks:
            def settled(hook=hook):
                return sum(entry["state"] == "delivered" for entry in server._list(f"/v1/webhooks/{hook['id']}/deliveries")) == number

            wait_until(settled, f"event {number} at {hook['url']}", timeout=20)
    for hook in hooks:
        assert {(entry["status"], entry["attempts"]) for entry in server._list(f"/v1/webhooks/{hook['id']}/deliveries")} == {(200, 1)}

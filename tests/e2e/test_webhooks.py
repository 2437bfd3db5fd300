"""Webhooks as their receivers see them: real HTTPS endpoints, signatures judged by two other implementations, and addresses
that nobody may be sent to."""

import json
import socket
import socketserver
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from peers.certs import Authority
from peers.process import wait_until
from peers.sink import Sink
from peers.verify import webhooks_verify
from peers.webhook import WebhookReceiver


@pytest.fixture
def hooked(postchute, ca):
    """A server that trusts the test authority and gives its mail to a sink; and the sink."""
    sinks = []

    def make(**settings):
        sink = Sink("11.22.4.2")
        sinks.append(sink.start())
        server = postchute(route=f"smtp://{sink.address}?tls=none", ca_file=ca.directory / "ca.pem",
                           retry_after="30s", **settings)  # fmt: skip
        server.sink = sink
        return server

    yield make
    for sink in sinks:
        sink.stop()


@pytest.fixture
def receiver(ca, cleanly):
    def make(address="11.22.4.1", **options):
        return cleanly(WebhookReceiver(address, certificate=ca.issue([address, "hook.test"]), **options))

    return make


def subscribe(server, url, **more):
    answer = server.api().post("/v1/webhooks", json={"url": url, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def refused_url(server, url, code, of=None):
    """Neither a new webhook nor the one that is there gets this URL."""
    api = server.api()
    answer = api.patch(f"/v1/webhooks/{of['id']}", json={"url": url}) if of else api.post("/v1/webhooks", json={"url": url})
    assert answer.status_code == 422, (url, answer.text)
    assert [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]] == [("#/url", code)], answer.text


def send(server, to="b@far.test", **more):
    return server.send(**{"from": "a@acme.test", "to": to, "subject": "private words", "text": "private text", **more})["id"]


def deliveries(server, hook):
    return server._list(f"/v1/webhooks/{hook['id']}/deliveries")


def wait_delivery(server, hook, wanted, what, timeout=20):
    """Waits for an entry of the delivery log that `wanted` is true of."""
    return wait_until(lambda: next(filter(wanted, deliveries(server, hook)), None), what, timeout, every=0.05)


def of(calls, kind):
    return [call for call in calls if call.json()["type"] == kind]


def test_T20_every_event_is_posted_signed(hooked, receiver):
    server, hook = hooked(), receiver()
    made = subscribe(server, hook.url("/mail?shop=1"), description="shop")
    assert made["secret"].startswith("whsec_") and made["events"] == ["*"]
    assert "secret" not in server.api().get(f"/v1/webhooks/{made['id']}").json()  # shown once
    message = send(server, ["good@far.test"], tags=["invoice"], metadata={"order": "17"}, external_id="x-17")
    calls = hook.wait(3)
    assert {call.json()["type"] for call in calls} == {"message.accepted", "recipient.delivered", "message.completed"}
    webhooks_verify([(call.headers, call.body.decode(), [made["secret"]]) for call in calls])
    for call in calls:
        event = call.json()
        assert call.method == "POST" and call.path == "/mail?shop=1" and call.headers["content-type"] == "application/json"
        assert call.headers["user-agent"].startswith("postchute/") and call.headers["webhook-id"] == event["id"]
        assert set(event) == {"id", "type", "timestamp", "data"}
        data = event["data"]
        assert data["message_id"] == message and data["external_id"] == "x-17"
        assert data["tags"] == ["invoice"] and data["metadata"] == {"order": "17"}
        assert b"private" not in call.body  # no content
    (delivered,) = of(calls, "recipient.delivered")
    data = delivered.json()["data"]
    assert data["recipient"] == {"email": "good@far.test", "state": "delivered"}
    assert data["final"] and data["seq"] == 1 and data["smtp"]["code"] == 250
    assert {event["id"] for event in server.events(message)} == {call.headers["webhook-id"] for call in calls}
    log = wait_until(lambda: (found := deliveries(server, made)) and all(one["state"] == "delivered" for one in found) and found, "settled")
    assert len(log) == 3 and {(one["status"], one["attempts"]) for one in log} == {(200, 1)}


def test_only_the_events_asked_for_are_posted(hooked, receiver):
    server, hook = hooked(), receiver()
    server.sink.on["RCPT"] = lambda session, argument: "550 5.1.1 unknown" if "<bad@" in argument else None
    subscribe(server, hook.url("/final"), events=["final"])
    subscribe(server, hook.url("/undelivered"), events=["undelivered"])
    subscribe(server, hook.url("/one"), events=["message.completed"])
    server.wait_final(send(server, ["good@far.test", "bad@far.test"]))
    hook.wait(1, where=lambda call: call.path == "/undelivered")
    hook.wait(1, where=lambda call: call.path == "/one")
    calls = hook.wait(3, where=lambda call: call.path == "/final")
    types = {path: sorted(c.json()["type"] for c in hook.calls if c.path == path) for path in ("/final", "/undelivered", "/one")}
    assert {"recipient.bounced", "recipient.delivered"} <= set(types["/final"])
    assert all(c.json()["data"]["final"] for c in hook.calls if c.path == "/final")
    assert types["/undelivered"] == ["recipient.bounced"] and types["/one"] == ["message.completed"]
    refusal = of(calls, "recipient.bounced")[0].json()["data"]["refusal"]
    assert refusal["class"] == "invalid_recipient" and refusal["hard"] and refusal["scope"] == "recipient"
    assert refusal["code"] == 550 and refusal["enhanced"] == "5.1.1" and refusal["text"] == "unknown"


def test_T20_a_failed_post_is_repeated_with_the_same_id_and_a_new_timestamp(hooked, receiver):
    server, hook = hooked(), receiver(answers=[(500, {}, b"\x00out of \xff order" * 5000), 200])
    made = subscribe(server, hook.url(), events=["message.completed"])
    server.wait_final(send(server))
    first, second = hook.wait(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] and first.body == second.body
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) in (4, 5, 6, 7)
    webhooks_verify([(call.headers, call.body.decode(), [made["secret"]]) for call in (first, second)])
    (entry,) = deliveries(server, made)
    wait_delivery(server, made, lambda one: one["state"] == "delivered", "delivered")
    assert entry["attempts"] in (1, 2)


def test_what_a_failing_endpoint_said_is_in_the_log_in_part(hooked, receiver):
    server, hook = hooked(), receiver(answers=[(503, {"Retry-After": "3600"}, b"busy\x00\xff" + b"x" * 200_000)])
    made = subscribe(server, hook.url(), events=["message.completed"])
    server.wait_final(send(server))
    entry = wait_delivery(server, made, lambda one: one["attempts"] == 1, "one attempt")
    assert entry["state"] == "pending" and entry["status"] == 503
    assert entry["response"].startswith("busy\ufffd\ufffdxxx") and len(entry["response"]) <= 4096
    from datetime import datetime

    wait_s = (datetime.fromisoformat(entry["next_attempt_at"]) - datetime.fromisoformat(entry["updated_at"])).total_seconds()
    assert 3590 <= wait_s <= 3610  # what it asked for


def test_T20_410_ends_it(hooked, receiver):
    gone = {"/hook"}
    server, hook = hooked(), receiver(answers=lambda call: 410 if call.path in gone else 200)
    server.expect_log("the endpoint answered 410: disabled")
    made = subscribe(server, hook.url(), events=["message.completed"])
    other = subscribe(server, hook.url("/other"), events=["webhook.disabled"])
    server.wait_final(send(server))
    wait_until(lambda: server.api().get(f"/v1/webhooks/{made['id']}").json()["state"] == "disabled", "disabled")
    (told,) = hook.wait(1, where=lambda call: call.path == "/other")
    assert told.json()["data"]["webhook_id"] == made["id"]
    server.wait_final(send(server))
    assert len([call for call in hook.calls if call.path == "/hook"]) == 1
    # it can be enabled again
    gone.clear()
    changed = server.api().patch(f"/v1/webhooks/{made['id']}", json={"state": "enabled"})
    assert changed.status_code == 200 and changed.json()["state"] == "enabled"
    server.wait_final(send(server))
    hook.wait(2, where=lambda call: call.path == "/hook")
    assert server.api().delete(f"/v1/webhooks/{other['id']}").status_code == 204


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_T19_a_redirect_is_a_failure_and_followed_nowhere(hooked, receiver, status):
    server, hook = hooked(), receiver()
    hook.answers = lambda call: (status, {"Location": hook.url("/elsewhere")}, b"") if call.path == "/hook" else 200
    made = subscribe(server, hook.url(), events=["message.completed"])
    server.wait_final(send(server))
    entry = wait_delivery(server, made, lambda one: one["attempts"] == 1, "one attempt")
    assert entry["state"] == "pending" and entry["status"] == status
    assert [call.path for call in hook.calls] == ["/hook"]


def test_an_endpoint_that_hangs_holds_nobody_up(hooked, receiver):
    server, hook = hooked(webhook_timeout="1s"), receiver()
    hang = threading.Event()
    hook.answers = lambda call: (hang.wait(20), 200)[1] if call.path == "/hook" else 200
    slow, quick = subscribe(server, hook.url(), events=["message.completed"]), subscribe(server, hook.url("/quick"))
    for _ in range(12):
        send(server)
    hook.wait(36, where=lambda call: call.path == "/quick")
    entry = wait_delivery(server, slow, lambda one: one["attempts"] == 1, "timed out")
    assert entry["state"] == "pending" and entry["status"] is None and entry["error"]
    assert all(one["state"] == "delivered" for one in deliveries(server, quick))
    hang.set()


def test_a_reload_takes_timeout_and_authorities(postchute, receiver, ca, cleanly):
    sink, hook, hang = cleanly(Sink("11.22.4.2")), receiver(), threading.Event()
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none")
    stranger = Authority.new(server.dir / "stranger", "somebody else's authority")
    server.declared.update(ca_file=str(stranger.directory / "ca.pem"), webhook_timeout="1m")
    server.start()
    made = subscribe(server, hook.url(), events=["message.completed"])
    send(server)
    refused = wait_delivery(server, made, lambda one: one["attempts"] == 1, "a certificate that is refused")
    assert "ertificate" in refused["error"] and not hook.calls, refused
    hook.answers = lambda call: (hang.wait(30), 200)[1]
    server.declared.update(ca_file=str(ca.directory / "ca.pem"), webhook_timeout="1s")
    server.write_declared()
    server.reload()
    server.wait_log('"msg":"settings read again"')
    again = {"delivery": refused["delivery"]}
    assert server.api().post(f"/v1/webhooks/{made['id']}/replay", json=again).status_code == 202
    hook.wait(1)
    entry = wait_delivery(server, made, lambda one: one["attempts"] == 2, "the new timeout")
    assert entry["state"] == "pending" and entry["status"] is None and entry["took_ms"] < 20000, entry
    hang.set()


def test_T20_a_rotated_secret_signs_beside_the_old_one(hooked, receiver):
    server, hook = hooked(), receiver()
    made = subscribe(server, hook.url(), events=["message.completed"])
    rotated = server.api().post(f"/v1/webhooks/{made['id']}/rotate").json()
    assert rotated["secret"] != made["secret"] and rotated["previous_secret_until"]
    send(server)
    (call,) = hook.wait(1)
    assert len(call.headers["webhook-signature"].split(" ")) == 2
    webhooks_verify([(call.headers, call.body.decode(), [rotated["secret"], made["secret"]])])


def test_a_secret_of_ones_own_is_used(hooked, receiver):
    import base64

    server, hook = hooked(), receiver()
    own = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
    assert subscribe(server, hook.url(), events=["message.completed"], secret=own)["secret"] == own
    send(server)
    webhooks_verify([(call.headers, call.body.decode(), [own]) for call in hook.wait(1)])


def test_a_long_period_is_replayed_whole(hooked, receiver):
    """More than the store does in one step."""
    server, hook = hooked(max_recipients=50), receiver()
    made = subscribe(server, hook.url())
    for number in range(25):
        to = [f"a{number}.{one}@far.test" for one in range(50)]
        server.send(**{"from": "a@acme.test", "to": to, "subject": "s", "text": "t"})
    hook.wait(25 * 52, timeout=60)
    # the last answers are being stored
    wait_until(lambda: server.metric("postchute_webhook_posts_under_way") == 0, "all answers came")
    wait_delivery(server, made, lambda one: one["type"] == "message.completed" and one["state"] == "delivered", "settled")
    replayed = server.api().post(f"/v1/webhooks/{made['id']}/replay", json={"since": "2020-01-01T00:00:00Z"})
    assert replayed.status_code == 202 and replayed.json() == {"replayed": 25 * 52}
    hook.wait(2 * 25 * 52, timeout=60)


def test_an_endpoint_can_be_tested_and_replayed(hooked, receiver):
    server, hook = hooked(), receiver()
    made = subscribe(server, hook.url(), events=["message.completed"])
    tested = server.api().post(f"/v1/webhooks/{made['id']}/test")
    assert tested.status_code == 202
    (call,) = hook.wait(1)
    assert call.json()["type"] == "webhook.test" and call.headers["webhook-id"] == tested.json()["event_id"]
    server.wait_final(send(server))
    (_, completed) = hook.wait(2)
    entry = wait_delivery(server, made, lambda one: one["type"] == "message.completed" and one["state"] == "delivered", "settled")
    replayed = server.api().post(f"/v1/webhooks/{made['id']}/replay", json={"delivery": entry["delivery"]})
    assert replayed.status_code in (200, 202), replayed.text
    again = hook.wait(3)[2]
    assert again.body == completed.body and again.headers["webhook-id"] == completed.headers["webhook-id"]
    webhooks_verify([(again.headers, again.body.decode(), [made["secret"]])])


def test_webhooks_outlive_a_restart(hooked, receiver):
    server = hooked()
    made = subscribe(server, "https://11.22.4.1/hook", events=["message.completed"])  # nobody listens yet
    server.wait_final(send(server))
    wait_delivery(server, made, lambda one: one["attempts"] == 1, "one attempt in vain")
    server.stop()
    hook = receiver()
    server.start()
    (call,) = hook.wait(1, timeout=15)
    webhooks_verify([(call.headers, call.body.decode(), [made["secret"]])])


def test_a_certificate_that_does_not_verify_gets_nothing(hooked, ca, cleanly):
    server = hooked()
    wrong = cleanly(WebhookReceiver("11.22.4.3", certificate=ca.issue("somebody.else.test")))
    untrusted = cleanly(WebhookReceiver("11.22.4.4", certificate=ca.issue("11.22.4.4", self_signed=True)))
    hooks = [subscribe(server, peer.url(), events=["message.completed"]) for peer in (wrong, untrusted)]
    server.wait_final(send(server))
    for hook in hooks:
        entry = wait_delivery(server, hook, lambda one: one["attempts"] == 1, "one attempt")
        assert entry["state"] == "pending" and "ertificate" in entry["error"]
    assert not wrong.calls and not untrusted.calls


# ---- addresses that nobody is sent to (T19) ---------------------------------------------------------------------------


class Recorder:
    """Counts connections; says nothing."""

    def __init__(self, address, port):
        self.connections = 0
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((address, port))
        self.socket.listen()

    def start(self):
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def _run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def stop(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Names:
    """A name server whose answers are a function of the question and of how often it was asked."""

    def __init__(self, address, answers):
        self.address, self.answers, self.asked = address, answers, {}
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                data, sock = self.request
                query = dns.message.from_wire(data)
                question = query.question[0]
                name = question.name.to_text(omit_final_dot=True)
                reply = dns.message.make_response(query)
                reply.flags |= dns.flags.RA
                outer.asked[name] = outer.asked.get(name, 0) + (question.rdtype == dns.rdatatype.A)
                known = outer.answers.get(name)
                if known is None:
                    reply.set_rcode(dns.rcode.NXDOMAIN)
                else:
                    texts = known(outer.asked[name]) if callable(known) else known
                    texts = [text for text in texts if (":" in text) == (question.rdtype == dns.rdatatype.AAAA)]
                    if texts and question.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                        reply.answer.append(dns.rrset.from_text(question.name, 0, "IN", question.rdtype, *texts))
                sock.sendto(reply.to_wire(), self.client_address)

        self.server = socketserver.ThreadingUDPServer((address, 53), Handler)

    def start(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


LITERALS = ["127.0.0.1", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "10.0.0.1", "169.254.169.254", "100.64.0.1",
            "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "192.168.1.1", "172.16.0.1"]  # fmt: skip
ODD = ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "localhost", "metadata.google.internal", "user@11.22.4.1"]


def test_T19_private_addresses_are_never_connected_to(hooked, cleanly):
    server = hooked()
    recorders = [cleanly(Recorder(address, 443)) for address in ("127.0.0.1", "127.0.0.2", "::1")]
    made = subscribe(server, "https://11.22.4.9/hook", events=["message.completed"])
    for host in LITERALS + ODD:
        refused_url(server, f"https://{host}/hook", "invalid_url" if "@" in host else "url_not_allowed")
        refused_url(server, f"https://{host}/hook", "invalid_url" if "@" in host else "url_not_allowed", of=made)
    assert [one["url"] for one in server._list("/v1/webhooks")] == ["https://11.22.4.9/hook"]
    server.wait_final(send(server))
    assert [recorder.connections for recorder in recorders] == [0, 0, 0]


def test_an_address_that_is_no_longer_listed_is_not_connected_to(hooked, cleanly):
    """Stored while the operator allowed it: looked at again before each attempt."""
    server = hooked(webhook_networks=["127.0.7.0/24"])
    recorder = cleanly(Recorder("127.0.7.2", 443))
    made = subscribe(server, "https://127.0.7.2/hook", events=["message.completed"])
    server.stop()
    del server.settings["webhook_networks"]
    server.start()
    refused_url(server, "https://127.0.7.2/other", "url_not_allowed")
    send(server)
    entry = wait_delivery(server, made, lambda one: one["attempts"] == 1, "an attempt")
    assert entry["state"] in ("pending", "failed") and entry["status"] is None, entry
    assert recorder.connections == 0


def test_plain_http_and_odd_ports_are_refused_unless_listed(hooked, cleanly):
    server = hooked()
    plain = cleanly(WebhookReceiver("11.22.4.5", port=80))
    odd = cleanly(Recorder("11.22.4.5", 6379))
    for url in ("http://11.22.4.5/hook", "https://11.22.4.5:6379/hook"):
        refused_url(server, url, "url_not_allowed")
    assert not plain.calls and odd.connections == 0


def test_listed_networks_and_hosts_are_connected_to(hooked, cleanly):
    server = hooked(webhook_networks=["127.0.7.0/24"], webhook_http_hosts=["127.0.7.1"])
    hook, neighbour = cleanly(WebhookReceiver("127.0.7.1", port=8080)), cleanly(Recorder("127.0.8.1", 443))
    made = subscribe(server, hook.url(), events=["message.completed"])
    refused_url(server, "https://127.0.8.1/hook", "url_not_allowed")
    send(server)
    (call,) = hook.wait(1)
    webhooks_verify([(call.headers, call.body.decode(), [made["secret"]])])
    assert neighbour.connections == 0


def test_T19_names_lead_nowhere_private_however_the_dns_answers(hooked, ca, cleanly):
    """A public answer, then a private one; both at once; IPv4 inside of IPv6."""
    public, private = "11.22.4.6", "127.0.0.9"
    names = cleanly(Names("11.22.4.7", {
        "private.test": [private],
        "mixed.test": [public, private],
        "mapped.test": ["::ffff:127.0.0.9"],
        "alternating.test": lambda asked: [public if asked % 2 else private],
        "public.test": [public],
    }))  # fmt: skip
    certificate = ca.issue([public, "public.test", "mixed.test", "alternating.test", "private.test"])
    hook = cleanly(WebhookReceiver(public, certificate=certificate))
    recorder = cleanly(Recorder(private, 443))
    server = hooked(dns=names.address)
    server.expect_log("DNSSEC signatures do not come through")  # this name server knows nothing of them
    hooks = {name: subscribe(server, f"https://{name}/{name}", events=["message.completed"]) for name in names.answers}
    for _ in range(6):
        server.wait_final(send(server))
    hook.wait(6, where=lambda call: call.path == "/public.test")
    for name, made in hooks.items():
        wait_until(lambda made=made: all(one["attempts"] >= 1 for one in deliveries(server, made)), f"attempts at {name}")
    assert recorder.connections == 0
    paths = {call.path for call in hook.calls}
    assert "/private.test" not in paths and "/mapped.test" not in paths and "/mixed.test" not in paths
    assert names.asked["alternating.test"] >= 2
    error = deliveries(server, hooks["private.test"])[0]["error"]
    assert error == "the name has an address that is not a public one"


def test_a_declared_webhook_is_used(postchute, ca, cleanly, receiver):
    import base64

    hook, sink = receiver(), cleanly(Sink("11.22.4.8"))
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none", ca_file=ca.directory / "ca.pem")
    secret = "whsec_" + base64.b64encode(bytes(range(40))).decode()
    path = server.dir / "hook.secret"
    path.write_text(secret + "\n")
    path.chmod(0o600)
    server.declared["webhooks"] = [{"url": hook.url(), "secret_file": str(path), "events": ["final"]}]
    server.start()
    server.wait_final(send(server))
    calls = hook.wait(2)
    webhooks_verify([(call.headers, call.body.decode(), [secret]) for call in calls])
    server.stop()
    server.start()  # applied again: still one endpoint
    assert len(server.api().get("/v1/webhooks").json()["data"]) == 1
    assert secret not in json.dumps(server.api().get("/v1/webhooks").json()) + server.log()

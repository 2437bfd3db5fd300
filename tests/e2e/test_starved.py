"""The process has no descriptors left, or stands still: nothing is lost, nothing goes twice, and it goes on."""

import os
import signal
import socket
import time

import requests

from peers.process import wait_until
from peers.sink import Sink
from peers.webhook import WebhookReceiver

GOOD = {"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"}
# a minute in the long form (E2E_STOP_S=60); here as long as it takes to pass the deadlines that these tests set
STOP_S = float(os.environ["E2E_STOP_S"])


def with_descriptors(server, count):
    """From its start on no more than so many."""
    before = server.confined
    server.confined = lambda: [*before(), "prlimit", f"--nofile={count}:{count}", "--"]
    return server.start()


def crowd(server, count):
    """Connections of clients that say half a request."""
    host, port = server.address.split(":")
    made = []
    for _ in range(count):
        s = socket.create_connection((host, int(port)), timeout=5)
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        made.append(s)
    return made


def test_without_descriptors_it_answers_delivers_and_recovers(postchute, cleanly, address):
    sink, hook = cleanly(Sink(address())), cleanly(WebhookReceiver(address()))
    server = postchute(start=False, route=f"smtp://{sink.address}?tls=none", retry_after="200ms", webhook_networks="11.0.0.0/8",
                       webhook_http_hosts=hook.address)  # fmt: skip
    server.expect_log("this machine could not open a connection")
    server.expect_log("fewer file descriptors than")
    with_descriptors(server, 112)
    assert server.api().post("/v1/webhooks", json={"url": hook.url(), "events": ["message.completed"]}).status_code == 201
    kept = server.api()  # one connection that is there before
    sent = [kept.post("/send", json=GOOD).json()["id"]]
    server.wait_state(sent[0], "delivered")
    people = crowd(server, 300)
    try:
        # nobody new gets in; who is in is answered, honestly
        for n in range(10):
            answer = kept.post("/send", json={**GOOD, "subject": f"n{n}"}, headers={"Idempotency-Key": f"short-{n}"})
            assert answer.status_code in (202, 503), answer.text
            if answer.status_code == 202:
                sent.append(answer.json()["id"])
        assert len(sent) > 5
        assert server.process.popen.poll() is None
    finally:
        for s in people:
            s.close()
    wait_until(server.ready, "a new connection is taken", timeout=10)
    sent.append(server.deliver(**GOOD, timeout=10)["id"])
    for one in sent:
        server.wait_state(one, "delivered", timeout=40)  # what found no descriptor waits for 10 to 15 s
    wait_until(lambda: {c.json()["data"]["message_id"] for c in hook.calls} >= set(sent), "webhooks", timeout=60)
    assert server.metric("postchute_outbox_balance") == 0
    assert len(sink.ledger) == len(sent)


def test_a_process_that_stood_still_takes_the_answers_that_came_meanwhile(postchute, cleanly, address):
    """Stopped between the final dot and the answer to it, and between a webhook and its answer, for longer than it waits for these."""
    stopped = []

    def stop(*_):
        if not stopped:
            stopped.append(time.monotonic())
            os.kill(server.process.popen.pid, signal.SIGSTOP)

    sink, hook = cleanly(Sink(address(), on={"end": stop})), cleanly(WebhookReceiver(address()))
    server = postchute(route=f"smtp://{sink.address}?tls=none", retry_after="200ms", webhook_networks="11.0.0.0/8",
                       webhook_http_hosts=hook.address, smtp_end_timeout="1s", webhook_timeout="1s")  # fmt: skip
    server.expect_log("attempts were under way")
    assert server.api().post("/v1/webhooks", json={"url": hook.url(), "events": ["message.completed"]}).status_code == 201
    one = server.send(**GOOD)["id"]
    wait_until(lambda: stopped, "the server is stopped")
    # a client that asks meanwhile waits, and is answered
    host, port = server.address.split(":")
    waits = socket.create_connection((host, int(port)), timeout=STOP_S + 30)
    waits.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    time.sleep(STOP_S)
    os.kill(server.process.popen.pid, signal.SIGCONT)
    assert waits.recv(64).startswith(b"HTTP/1.1 200")
    waits.close()
    seen = server.wait_state(one, "delivered", timeout=20)
    assert not seen["recipients"][0].get("possible_duplicate")
    assert len(sink.ledger) == 1
    wait_until(lambda: hook.calls, "the webhook")

    # and in the middle of a webhook
    stopped.clear()
    hook.answers = lambda call: stop() or 200
    two = server.send(**GOOD)["id"]
    wait_until(lambda: stopped, "the server is stopped")
    time.sleep(STOP_S)
    os.kill(server.process.popen.pid, signal.SIGCONT)
    server.wait_state(two, "delivered", timeout=20)
    webhook = server.api().get("/v1/webhooks").json()["data"][0]["id"]

    def settled():
        rows = server.api().get(f"/v1/webhooks/{webhook}/deliveries").json()["data"]
        return len(rows) == 2 and all(row["state"] == "delivered" for row in rows) and rows

    rows = wait_until(settled, "both webhooks are delivered")
    assert [row["attempts"] for row in rows] == [1, 1]
    assert len(hook.calls) == 2 and len(sink.ledger) == 2
    assert requests.get(server.url + "/readyz", timeout=5).status_code == 200

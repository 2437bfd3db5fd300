"""What is kept how long: contents, then events, attempts and messages; keys of submissions longer than their messages."""

import sqlite3
import time

import pytest

from peers.process import wait_until
from peers.sink import Sink

GOOD = {"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"}
HOUR_MS = 3600 * 1000


@pytest.fixture
def sink(cleanly):
    return cleanly(Sink("11.22.11.1"))


def rows(server, query, *values):
    with sqlite3.connect(server.data / "outbox.db") as database:
        return database.execute(query, values).fetchall()


def age(server, ms):
    """Everything that is in the (stopped) server's store becomes older."""
    with sqlite3.connect(server.data / "outbox.db") as database:
        for column in ("event.wall", "message.created", "message.expires", "notification.created", "notification.updated",
                       "recipient.updated", "open_message.expires", "attempt.started"):  # fmt: skip
            table, name = column.split(".")
            database.execute(f"UPDATE {table} SET {name} = {name} - ?", (ms,))


def test_contents_are_erased_and_the_rest_stays(postchute, sink):
    server = postchute(route=f"smtp://{sink.address}?tls=none", content_keep="1s")
    sent = server.deliver(**GOOD)
    path = f"/v1/messages/{sent['id']}"
    contents = "SELECT count(*) FROM body"
    assert rows(server, contents) == [(1,)]
    time.sleep(1.1)  # that is what is tested: so long it is kept
    server.reload()  # retention goes by the settings at once
    wait_until(lambda: rows(server, contents) == [(0,)], "the content is erased")
    assert server.message(sent["id"])["state"] == "delivered"
    assert [event["type"] for event in server.api().get(path + "/events").json()["data"]][-1] == "message.completed"
    assert server.metric("postchute_outbox_balance") == 0


def test_events_and_messages_go_and_totals_stay(postchute, sink):
    server = postchute(route=f"smtp://{sink.address}?tls=none", events_keep="1h", idempotency_keep="1h", retry_after="4h")
    sink.on["RCPT"] = lambda session, argument: "451 4.7.1 later" if "later@" in argument else None
    old, key = server.deliver(**GOOD), {"Idempotency-Key": "k"}
    server.deliver(**GOOD)
    assert server.api().post("/v1/messages", json=GOOD, headers=key).status_code == 202
    wait_until(lambda: len(sink.ledger) == 3, "all are sent")
    server.wait_final(server.api().get("/v1/messages").json()["data"][0]["id"])
    waits = server.send(**{**GOOD, "to": "later@far.test"})["id"]
    server.wait_state(waits, "deferred")
    server.stop()
    age(server, 2 * HOUR_MS)
    server.start()
    young = server.deliver(**GOOD)["id"]
    server.reload()
    wait_until(lambda: server.api().get(f"/v1/messages/{old['id']}").status_code == 404, "old messages are gone")
    # its key is remembered longer (its row was not aged): it is not sent twice
    again = server.api().post("/v1/messages", json=GOOD, headers=key)
    assert again.status_code in (409, 422), again.text
    assert {one["id"] for one in server.api().get("/v1/messages").json()["data"]} == {waits, young}
    for table in ("message", "recipient", "open_message"):
        wait_until(lambda: rows(server, f"SELECT count(*) FROM {table}")[0][0] == (1 if table == "open_message" else 2), table)
    assert len(sink.ledger) == 4 and server.metric("postchute_outbox_balance") == 0
    assert server.metric('postchute_outbox_recipients{state="delivered"}') == 4
    assert server.message(waits)["state"] == "deferred"

"""The wall clock is set while mail is deferred and webhooks wait, and put right again: everything arrives once, nothing is stuck, and
no key is good for longer. The clock is the server's alone (tests/soak/clock.c)."""

import concurrent.futures
import datetime
import mmap
import os
import pathlib
import struct
import time

import pytest

from peers.postchute import Postchute
from peers.process import wait_until
from peers.sink import Sink
from peers.verify import webhooks_verify
from peers.webhook import WebhookReceiver

HOUR, YEARS = 3600, 10 * 365 * 86400
STEPS = {"an hour ahead": HOUR, "an hour back": -HOUR, "ten years ahead": YEARS, "ten years back": -YEARS, "a second that comes twice": -1}
FAILED = (503, {"Retry-After": "120"}, b"")  # so that what it is for waits until the clock is set
LATER = "451 4.3.0 later"


class Clock:
    """What the server takes for the time."""

    def __init__(self, path):
        path.write_bytes(bytes(16))
        path.chmod(0o644)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)

    def set(self, seconds):
        """So far from the machine's own."""
        struct.pack_into("=q", self._map, 0, seconds * 1000)

    def sleep(self, seconds):
        """The machine sleeps: time goes on, but that by which timers go."""
        struct.pack_into("=q", self._map, 8, seconds * 1000)


class World:
    """A server with a clock of its own, a receiver of mail that takes nobody who is in `refused`, and one of webhooks that wants each twice."""

    def __init__(self, number):
        self.refused = set()
        self.sink = Sink(f"11.22.14.{10 + number}", on={"RCPT": self.answer}).start()
        self.hook = WebhookReceiver(f"11.22.14.{100 + number}", answers=self.judge).start()
        self.server = Postchute(route=f"smtp://{self.sink.address}?tls=none", retry_after="2s", webhook_networks="11.0.0.0/8",
                                webhook_http_hosts=self.hook.address)  # fmt: skip
        self.clock = Clock(self.server.dir / "clock")
        library = pathlib.Path(os.environ["E2E_BIN"]).with_name("clock.so")
        assert library.exists(), "tests/soak/clock.so is not built: make e2e does it"
        usual = self.server.environment

        def environment():
            env = usual()
            env.update(LD_PRELOAD=str(library), CLOCK_FILE=str(self.server.dir / "clock"))
            env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
            return env

        self.server.environment = environment
        self.posted = []

    def answer(self, session, argument):
        return LATER if any(f"<{one}@" in argument for one in self.refused) else None

    def judge(self, call):
        event = call.headers["webhook-id"]
        self.posted.append(event)
        return FAILED if self.posted.count(event) == 1 else 200

    def send(self, name, **headers):
        body = {"from": "a@acme.test", "to": f"{name}@far.test", "subject": "s", "text": "t", "external_id": name}
        answer = self.server.api().post("/v1/messages", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def stop(self):
        for one in (self.server, self.hook, self.sink):
            one.stop()


class Rated:
    """A key of 60 requests a minute, used up again and again."""

    def __init__(self, api):
        self.api, self.taken, self.begun = api, 0, time.monotonic()

    def use_up(self):
        while True:
            answer = self.api.get("/v1/messages?limit=1")
            if answer.status_code == 429:
                assert 1 <= int(answer.headers["retry-after"]) <= 60
                break
            assert answer.status_code == 200, answer.text
            self.taken += 1
            assert self.taken <= 60 + (time.monotonic() - self.begun) + 1, "the clock gave it more than its rate"


def make_key(server, name, **more):
    answer = server.api().post("/v1/keys", json={"name": name, "scopes": ["read"], **more})
    assert answer.status_code == 201, answer.text
    return server.api(answer.json()["key"])


def live_through(world, seconds):
    """Everything that happens; what is asserted on the way is what has to be so at that moment."""
    server, clock = world.server, world.clock
    made = server.api().post("/v1/webhooks", json={"url": world.hook.url()}).json()
    rotated = server.api().post(f"/v1/webhooks/{made['id']}/rotate").json()
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=30)
    short = make_key(server, "short", expires_at=soon.isoformat().replace("+00:00", "Z"))
    rated = Rated(make_key(server, "rated", rate=60))
    rated.use_up()

    def noticed(count):
        if abs(seconds) >= 60:
            wait_until(lambda: server.log().count("the clock was set") >= count, "the server notices that its clock was set")

    # what waits when the clock is set
    world.refused |= {"before-later", "within-later"}
    sent = {name: world.send(name, **{"Idempotency-Key": name}) for name in ("before", "before-later")}
    server.wait_state(sent["before"], "delivered")
    server.wait_state(sent["before-later"], "deferred")
    world.hook.wait(1, where=lambda call: call.json()["data"]["message_id"] == sent["before-later"])

    clock.set(seconds)
    noticed(1)
    world.refused.discard("before-later")
    for name in ("within", "within-later"):
        sent[name] = world.send(name, **{"Idempotency-Key": name})
    assert {name: world.send(name, **{"Idempotency-Key": name}) for name in sent} == sent
    rated.use_up()
    assert short.get("/v1/messages").status_code == (401 if seconds >= HOUR else 200)
    server.wait_state(sent["within"], "delivered")
    server.wait_state(sent["before-later"], "delivered")  # due at once, or moved into reach
    server.wait_state(sent["within-later"], "deferred")
    world.hook.wait(1, where=lambda call: call.json()["data"]["message_id"] == sent["within-later"])

    clock.set(0)
    noticed(2)
    world.refused.clear()
    server.wait_state(sent["within-later"], "delivered")
    assert {name: world.send(name, **{"Idempotency-Key": name}) for name in sent} == sent
    rated.use_up()
    assert short.get("/v1/messages").status_code == 200
    wait_until(lambda: rated.api.get("/v1/messages?limit=1").status_code == 200, "the key with a rate is let in again")

    # a wait that was planned by the wrong clock is over then; and so is the key
    clock.sleep(2 * HOUR)
    assert short.get("/v1/messages").status_code == 401

    def all_notified():
        rows = server._list(f"/v1/webhooks/{made['id']}/deliveries")
        return all(row["state"] == "delivered" for row in rows) and rows

    rows = wait_until(all_notified, "each event is notified", timeout=150, every=0.5)  # it looks once a minute
    return {"sent": sent, "rows": rows, "made": made, "rotated": rotated}


@pytest.fixture(scope="module")
def lives():
    """Of each step its world and what comes of it; all at the same time."""
    worlds = [World(number) for number in range(len(STEPS))]
    for world, seconds in zip(worlds, STEPS.values()):
        if abs(seconds) >= 60:
            world.server.expect_log("the clock was set")
        world.server.start()
    with concurrent.futures.ThreadPoolExecutor(len(worlds)) as pool:
        yield {name: (world, pool.submit(live_through, world, STEPS[name])) for name, world in zip(STEPS, worlds)}
    for world in worlds:
        world.stop()


@pytest.mark.parametrize("name", STEPS)
def test_a_clock_that_is_set_and_put_right_loses_and_doubles_nothing(lives, name):
    world, life = lives[name]
    seen = life.result()
    server, sent, seconds = world.server, seen["sent"], STEPS[name]
    assert sorted(rcpt for message in world.sink.ledger for rcpt in message.rcpts) == sorted(f"{one}@far.test" for one in sent)
    assert server.metric("postchute_outbox_balance") == 0
    # each event, and nothing else, was taken once: at the second time that it was posted
    events = {event["id"] for one in sent.values() for event in server.events(one)}
    assert {row["event_id"] for row in seen["rows"]} == events
    assert {(row["state"], row["status"], row["attempts"]) for row in seen["rows"]} == {("delivered", 200, 2)}
    assert sorted(world.posted) == sorted([*events, *events])
    # signed by the secret before as long as the server's clock says
    until = datetime.datetime.fromisoformat(seen["rotated"]["previous_secret_until"]).timestamp()
    new, old = seen["rotated"]["secret"], seen["made"]["secret"]
    stamps = [int(call.headers["webhook-timestamp"]) for call in world.hook.calls]
    webhooks_verify([(call.headers, call.body.decode(), [new, old] if stamp < until else [new]) for call, stamp in zip(world.hook.calls, stamps)])
    for call, stamp in zip(world.hook.calls, stamps):
        assert len(call.headers["webhook-signature"].split(" ")) == (2 if stamp < until else 1)
    moved = {round((stamp - call.wall) / HOUR) for call, stamp in zip(world.hook.calls, stamps)}
    assert moved >= {0, round(seconds / HOUR)}, "the server's clock was not set"

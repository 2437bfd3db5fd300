"""Answers that change between two attempts: a name server that fails or is silent and then answers, mail servers that move, and a domain that
takes no mail any more. Behind it is the signed tree, and all answers are validated."""

import shutil

import pytest

from peers.dns import Meddler
from peers.postchute import Postchute
from peers.sink import Sink

OLD, NEW, DOOR = "11.22.15.1", "11.22.15.2", "11.22.15.53"
HERE = f"@ MX 10 old\nold A {OLD}\nnew A {NEW}"


class World:
    """What all of this file's servers share."""

    def __init__(self, tree):
        self.tree, self.door = tree, Meddler(DOOR).start()
        self.old = Sink(OLD, on={"RCPT": self.answer}).start()
        self.new = Sink(NEW).start()
        self.moving = ("moves.org", "closes.org")

    def answer(self, session, argument):
        return "451 4.3.0 later" if argument.split(">")[0].endswith(self.moving) else None

    def server(self, domain, **settings):
        """One that is not started yet and sends for this domain."""
        server = Postchute(hostname="mail." + domain, route="mx", dns=DOOR, **settings)
        shutil.copy(self.tree.dir / "root.key", server.dir / "anchor.key")
        server.settings["dns_trust_anchor"] = server.dir / "anchor.key"
        added = server.command("domain", "add", domain, "--zone", "--bounce-address", "bounces@" + domain)
        assert added.returncode == 0, added.stderr
        self.tree.zone(domain, added.stdout, reload=False)
        server.domain = domain
        return server

    def stop(self):
        for one in (self.old, self.new, self.door):
            one.stop()


def send(server, to):
    return server.send(**{"from": f"a@{server.domain}", "to": to, "subject": "s", "text": "t"})["id"]


def refusal(seen):
    return {key: seen["recipients"][0]["refusal"].get(key) for key in ("class", "scope", "enhanced")}


def taken(sink, to):
    return sum(message.rcpts == [to] for message in sink.ledger)


@pytest.fixture(scope="module")
def world(_tree):
    for name in ("fails.org", "silent.org", "moves.org", "closes.org"):
        _tree.zone(name, HERE, reload=False)
    world = World(_tree)
    # an answer is kept for a minute at least: the second attempt comes later, and meanwhile the other tests run
    patient = world.server("patient.org", retry_after="75s")
    world.quick = world.server("quick.org", retry_after="300ms")
    _tree.reload()
    for server in (patient, world.quick):
        server.start()
        server.wait_verified(server.domain)
        assert server.metric("postchute_dns_validating") == 1
    world.sent = {name: send(patient, f"a@{name}") for name in world.moving}
    for one in world.sent.values():
        patient.wait_state(one, "deferred")
    _tree.zone("moves.org", HERE.replace("MX 10 old", "MX 10 new"), reload=False)
    _tree.zone("closes.org", "@ MX 0 .", reload=False)
    _tree.reload()
    world.patient = patient
    yield world
    patient.stop()
    world.quick.stop()
    world.stop()


@pytest.mark.parametrize("name, how", [("fails.org", "servfail"), ("silent.org", "silent")])
def test_mail_waits_for_a_name_server_that_fails_and_is_delivered(world, name, how):
    world.door.spoiled[name] = how
    one = send(world.quick, f"a@{name}")
    seen = world.quick.wait_state(one, "deferred", timeout=60)
    assert refusal(seen)["class"] == "dns" and (name, "MX", how) in world.door.met
    del world.door.spoiled[name]
    seen = world.quick.wait_state(one, "delivered", timeout=60)
    assert seen["recipients"][0]["attempts"] >= 2 and taken(world.old, f"a@{name}") == 1
    assert all(event["type"] != "recipient.bounced" for event in world.quick.events(one))


def test_the_second_attempt_goes_to_where_the_domain_moved(world):
    seen = world.patient.wait_state(world.sent["moves.org"], "delivered", timeout=150)
    assert [attempt["host"] for attempt in world.patient.attempts(seen["id"])] == ["old.moves.org", "new.moves.org"]
    assert taken(world.new, "a@moves.org") == 1 and taken(world.old, "a@moves.org") == 0


def test_a_domain_that_begins_to_take_no_mail_bounces_what_waits(world):
    seen = world.patient.wait_final(world.sent["closes.org"], timeout=150)
    (recipient,) = seen["recipients"]
    assert recipient["state"] == "bounced" and recipient["attempts"] == 2
    assert refusal(seen) == {"class": "invalid_domain", "scope": "recipient", "enhanced": "5.1.10"}
    assert taken(world.old, "a@closes.org") == taken(world.new, "a@closes.org") == 0

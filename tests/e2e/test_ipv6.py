"""IPv6: mail servers that have only that, those whose IPv6 does not work, and the race of both families."""

import os
import shutil
import socket

import pytest

from peers.hostile import HostileSMTP
from peers.postchute import Postchute
from peers.postfix import Postfix
from peers.process import check, wait_until
from peers.sink import Sink

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="the kernel has no IPv6")

NET = "2c0f:face:25:"
SIX, FOUR = NET + ":1", "11.22.4.1"  # the real Postfix, at both
NOWHERE6, NOWHERE4 = NET + ":dead", "11.22.4.66"  # nobody listens: a reset
ALSO6, ALSO4 = NET + ":dea", "11.22.4.67"  # nor there
UNROUTED, PROHIBITED = "2c0f:face:bad:1::1", "2c0f:face:bad:2::1"
SILENT6, BOTH6, BOTH4 = NET + ":5", NET + ":6", "11.22.4.6"

ZONES = {
    "six.org": f"@ MX 10 mx\nmx AAAA {SIX}",
    "implicit6.org": f"@ AAAA {SIX}",
    "dead6.org": f"@ MX 10 mx\nmx AAAA {NOWHERE6}\nmx A {FOUR}",
    "unrouted6.org": f"@ MX 10 mx\nmx AAAA {UNROUTED}\nmx A {FOUR}",
    "prohibited6.org": f"@ MX 10 mx\nmx AAAA {PROHIBITED}\nmx A {FOUR}",
    "silent6.org": f"@ MX 10 mx\nmx AAAA {SILENT6}\nmx A {FOUR}",
    "dead4.org": f"@ MX 10 mx\nmx AAAA {SIX}\nmx A {NOWHERE4}",
    "both.org": f"@ MX 10 mx\nmx AAAA {BOTH6}\nmx A {BOTH4}",
    "alldead.org": f"@ MX 10 mx\nmx AAAA {ALSO6}\nmx A {ALSO4}",
    "second6.org": f"@ MX 10 dead\n@ MX 20 alive\ndead AAAA {NOWHERE6}\nalive AAAA {SIX}",
}


class Silent:
    """A listener that answers no SYN, because its queue is full: what a filter that drops looks like."""

    def __init__(self, address):
        self.listener = socket.socket(socket.AF_INET6)
        self.listener.bind((address, 25))
        self.listener.listen(0)
        self.filler = []

    def __enter__(self):
        for _ in range(8):
            one = socket.socket(socket.AF_INET6)
            one.setblocking(False)
            one.connect_ex(self.listener.getsockname())
            self.filler.append(one)
        return self

    def __exit__(self, *_):
        for one in [*self.filler, self.listener]:
            one.close()


@pytest.fixture(scope="module")
def addresses():
    """IPv6 lets programs bind to addresses of an interface only, not to whatever is routed here."""
    own = [SIX, SILENT6, BOTH6, NET + ":7", NET + ":77"]
    for address in own:
        check("ip", "-6", "addr", "add", f"{address}/128", "dev", "lo", "nodad")
    yield
    for address in own:
        check("ip", "-6", "addr", "del", f"{address}/128", "dev", "lo")


@pytest.fixture(scope="module")
def world(_tree, ca, addresses):
    tree = _tree
    server = Postchute(
        hostname="mail.six-sender.org", route="mx", dns=tree.resolver, ipv6="on", retry_after="300ms", smtp_connect_timeout="5s",
    )  # fmt: skip
    added = server.command("domain", "add", "six-sender.org", "--zone", "--bounce-address", "bounces@six-sender.org")
    assert added.returncode == 0, added.stderr
    for name, records in ZONES.items():
        tree.zone(name, records, reload=False)
    tree.zone("six-sender.org", added.stdout, reload=False)
    tree.reload()
    shutil.copy(tree.dir / "root.key", server.dir / "anchor.key")
    server.settings["dns_trust_anchor"] = server.dir / "anchor.key"
    check("ip", "-6", "route", "add", "unreachable", "2c0f:face:bad:1::/64")
    check("ip", "-6", "route", "add", "prohibit", "2c0f:face:bad:2::/64")
    certificate = ca.issue(["mx.six.org"])
    with Postfix(SIX, "mx.six.org", list(ZONES), certificate) as six, Postfix(FOUR, "mx.four.org", list(ZONES), certificate) as four:
        server.six, server.four, server.tree = six, four, tree
        server.start()
        server.wait_verified("six-sender.org")
        yield server
        server.stop()
    check("ip", "-6", "route", "del", "unreachable", "2c0f:face:bad:1::/64")
    check("ip", "-6", "route", "del", "prohibit", "2c0f:face:bad:2::/64")


def mail(to, **more):
    return {"from": "Ann <ann@six-sender.org>", "to": to, "subject": "IPv6", "text": "Hello", **more}


@pytest.mark.parametrize("name", ["six.org", "implicit6.org", "dead4.org", "second6.org"])
def test_mail_arrives_over_ipv6(world, name):
    seen = world.deliver(**mail(f"a@{name}"))
    (stored,) = world.six.wait_mail(f"a@{name}")
    assert b"(unknown [IPv6:2c0f:face:" in stored and b"using TLSv1.3" in stored
    (attempt,) = world.attempts(seen["id"])
    assert attempt["address"] == f"[{SIX}]:25"
    assert seen["recipients"][0]["attempts"] == 1


@pytest.mark.parametrize("name", ["dead6.org", "unrouted6.org", "prohibited6.org", "silent6.org"])
def test_ipv6_that_does_not_work_costs_no_attempt(world, name):
    with Silent(SILENT6):
        seen = world.deliver(**mail(f"a@{name}"))
    world.four.wait_mail(f"a@{name}")
    (attempt,) = world.attempts(seen["id"])
    assert attempt["address"] == f"{FOUR}:25" and seen["recipients"][0]["attempts"] == 1


def test_ipv6_goes_first_and_the_other_family_hears_nothing(world, cleanly, ca):
    """With its head start it is connected long before; the loser of a closer race is closed without a byte."""
    six = cleanly(Sink(BOTH6, "mx.both.org", certificate=ca.issue("mx.both.org")))
    four = cleanly(HostileSMTP(BOTH4, lambda talk: talk.until_closed()))
    for n in range(3):
        seen = world.deliver(**mail(f"b{n}@both.org"))
        assert world.attempts(seen["id"])[0]["address"] == f"[{BOTH6}]:25"
    assert len(six.ledger) == 3
    assert all(session.received == b"" for session in four.sessions)


def test_both_addresses_are_named_when_both_are_dead(world):
    message = world.send(**mail("a@alldead.org"))["id"]
    refusal = world.wait_state(message, "deferred")["recipients"][0]["refusal"]
    assert refusal["class"] == "network" and refusal["stage"] == "connect"
    assert refusal["text"] == f"[{ALSO6}]:25: Connection refused; {ALSO4}:25: Connection refused"
    assert world.api().post(f"/v1/messages/{message}/cancel").status_code == 200


def test_the_source_address_of_the_family_is_used(postchute, cleanly, addresses):
    sink = cleanly(Sink(NET + ":7", "relay.six"))
    server = postchute(route=f"smtp://[{NET}:7]?tls=none", source_address=NET + ":77")
    server.deliver(**{"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"})
    assert sink.sessions[0].peer[0] == NET + ":77"


def test_without_ipv6_a_domain_that_has_only_that_is_not_called_dead(world, postchute):
    off = postchute(start=False, route="mx", dns=world.tree.resolver, hostname="mail.six-sender.org", retry_after="100ms",
                    dns_trust_anchor=world.settings["dns_trust_anchor"])  # fmt: skip
    keys = off.command("domain", "add", "six-off.org", "--zone")
    assert keys.returncode == 0, keys.stderr
    world.tree.zone("six-off.org", keys.stdout)
    off.start()
    off.wait_verified("six-off.org")
    message = off.send(**mail("a@six.org", **{"from": "a@six-off.org"}))["id"]

    def tried_twice():
        (recipient,) = off.message(message)["recipients"]
        return recipient if recipient["attempts"] >= 2 else None

    recipient = wait_until(tried_twice, "two attempts")
    assert recipient["state"] in ("deferred", "queued", "sending"), recipient
    assert recipient["refusal"]["class"] == "network" and "only IPv6 addresses" in recipient["refusal"]["text"]
    assert off.api().post(f"/v1/messages/{message}/cancel").status_code == 200

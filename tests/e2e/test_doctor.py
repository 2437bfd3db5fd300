"""`postchute doctor` against a real DNS and real listeners: each check that asks the network, right and wrong."""

import os
import re
import signal
import socket

import pytest

from peers.dns import RESOLVER
from peers.postchute import Postchute
from peers.postfix import Postfix
from peers.hostile import HostileSMTP

OURS, SECOND = "11.22.5.1", "11.22.5.2"  # addresses of mail servers that "we" are
SIX = "2c0f:face:5::1"
MX, REFUSING, NOBODY, SILENT = "11.22.5.10", "11.22.5.11", "11.22.5.12", "11.22.5.13"

ZONES = {
    # the MX of others
    "greets.org": f"@ MX 10 mx\nmx A {MX}",
    "second-greets.org": f"@ MX 10 dead\n@ MX 20 mx.greets.org.\ndead A {NOBODY}",
    "refuses.org": f"@ MX 10 mx\nmx A {REFUSING}",
    "closed.org": f"@ MX 10 mx\nmx A {NOBODY}",
    "silent.org": f"@ MX 10 mx\nmx A {SILENT}",
    "takes-none.org": "@ MX 0 .",
    "only-six.org": f"@ MX 10 mx\nmx AAAA {SIX}",
    # us
    "us.org": f"good A {OURS}\ntwo A {OURS}\ntwo A {SECOND}\nother A {SECOND}\nbare A 11.22.5.3\nsix A {OURS}\nsix AAAA {SIX}",
    "22.11.in-addr.arpa": "1.5 PTR good.us.org.\n1.5 PTR two.us.org.\n1.5 PTR six.us.org.\n2.5 PTR elsewhere.org.",
    "e.c.a.f.f.0.c.2.ip6.arpa": "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0 PTR six.us.org.",
}


@pytest.fixture(scope="module")
def tree(_tree, ca):
    for name, records in ZONES.items():
        _tree.zone(name, records, reload=False)
    _tree.reload()

    def refuse(talk):
        talk.send("554 5.7.1 no service for you\r\n")
        talk.until_closed()

    silent = socket.socket()
    silent.bind((SILENT, 25))
    silent.listen(0)
    filler = [socket.socket() for _ in range(8)]
    for one in filler:
        one.setblocking(False)
        one.connect_ex(silent.getsockname())
    with Postfix(MX, "mx.greets.org", ["greets.org"], ca.issue("mx.greets.org")), HostileSMTP(REFUSING, refuse):
        yield _tree
    for one in [*filler, silent]:
        one.close()


def doctor(server, *arguments):
    """What it said: a list of (sign, subject, text), and whether nothing is bad."""
    done = server.command("doctor", "--timeout", "1", *arguments, timeout=60)
    assert done.stderr == "", done.stderr
    said = re.findall(r"^(ok|look|BAD) +(\S+(?: \S+)?)  +(.*)$", done.stdout, re.M)
    assert done.returncode == (1 if any(sign == "BAD" for sign, _, _ in said) else 0), done.stdout
    return said


def about(said, subject):
    return [(sign, text) for sign, what, text in said if what == subject]


@pytest.fixture(scope="module")
def ours(tree):
    """Makes the settings of a server that sends to MX hosts; it is never started."""

    def make(**more):
        server = Postchute(**{"hostname": "good.us.org", "route": "mx", "dns": tree.resolver, "dns_trust_anchor": tree.dir / "root.key", **more})
        server.declared = None
        return server

    return make


# ---- port 25 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "domain, sign, says",
    [("greets.org", "ok", "the MX of greets.org greets: 220 mx.greets.org ESMTP"),
     ("second-greets.org", "ok", "greets: 220 mx.greets.org ESMTP"),
     ("refuses.org", "BAD", "554 5.7.1 no service for you"),
     ("closed.org", "BAD", "Connection refused"),
     ("silent.org", "BAD", "timed out"),
     ("takes-none.org", "BAD", "null MX"),
     ("nosuch-domain.org", "BAD", "does not exist"),
     ("only-six.org", "BAD", "only IPv6 addresses")],
)  # fmt: skip
def test_the_way_out_by_port_25(ours, domain, sign, says):
    ((got, text),) = about(doctor(ours(), "--mx-domain", domain), "port 25")
    assert got == sign and says in text, text


def test_offline_asks_nobody(ours):
    said = doctor(ours(dns="11.22.5.99"), "--offline", "--mx-domain", "greets.org")
    assert not {what for _, what, _ in said} & {"dns", "port 25", "hostname", "dkim"}


def test_settings_that_stop_the_start_are_bad_and_the_rest_is_examined(ours):
    server = ours(hostname=None)
    why = server.command("check-config").stderr
    assert why.startswith("postchute check-config: POSTCHUTE_HOSTNAME: "), why
    said = doctor(server, "--mx-domain", "greets.org")
    assert about(said, "settings") == [("BAD", why.removeprefix("postchute check-config: ").rstrip())]
    assert about(said, "route") == [("look", "mail would go to mx")]
    assert [sign for subject in ("dns", "port 25") for sign, _ in about(said, subject)] == ["ok", "ok"]
    said = doctor(ours(route="smtp:/u:hunter2"), "--mx-domain", "greets.org")
    assert [sign for sign, _ in about(said, "settings")] == ["BAD"] and "hunter2" not in str(said)
    assert about(said, "smarthost") == [("look", "not tried")]


# ---- our name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, settings, wanted",
    [("good.us.org", {}, [("ok", f"good.us.org -> {OURS} -> good.us.org")]),
     ("GOOD.us.org", {}, [("ok", f"-> {OURS} ->")]),
     ("two.us.org", {}, [("ok", f"two.us.org -> {OURS}"), ("BAD", f"{SECOND} has the PTR elsewhere.org, not two.us.org")]),
     ("other.us.org", {}, [("BAD", f"{SECOND} has the PTR elsewhere.org, not other.us.org")]),
     ("bare.us.org", {}, [("BAD", "11.22.5.3 has no PTR")]),
     ("absent.us.org", {}, [("BAD", "absent.us.org has no address in DNS")]),
     ("six.us.org", {}, [("ok", OURS)]),
     ("six.us.org", {"ipv6": "on"}, [("ok", OURS), ("ok", f"six.us.org -> {SIX} -> six.us.org")])],
)  # fmt: skip
def test_our_name_forwards_and_backwards(ours, name, settings, wanted):
    said = about(doctor(ours(hostname=name, **settings), "--mx-domain", "greets.org"), "hostname")
    assert len(said) == len(wanted), said
    for (sign, says), want in zip(sorted(said), sorted(wanted, key=lambda one: (one[0], one[1]))):
        assert sign == want[0]
    for sign, says in wanted:
        assert any(got == sign and says in text for got, text in said), said


def test_the_address_that_mail_leaves_from(ours):
    for source, name, wanted in ((OURS, "good.us.org", "ok"), (SECOND, "good.us.org", "BAD"), (OURS, "absent.us.org", "BAD")):
        ((sign, text),) = about(doctor(ours(source_address=source, hostname=name), "--mx-domain", "greets.org"), "source")
        assert sign == wanted and source in text and name in text
    assert about(doctor(ours(), "--mx-domain", "greets.org"), "source") == []


# ---- sending domains ----------------------------------------------------------------------------------------------------


def test_the_records_of_sending_domains(ours, tree):
    server = ours()
    zones = {}
    for name in ("full", "bare", "stale", "liar"):
        done = server.command("domain", "add", f"{name}.org", "--zone")
        assert done.returncode == 0, done.stderr
        zones[name] = done.stdout
    tree.zone("full.org", zones["full"], reload=False)
    tree.zone("bare.org", "@ TXT nothing", reload=False)
    # the keys of another installation, at the same selectors
    tree.zone("stale.org", zones["full"].replace("full.org", "stale.org"), reload=False)
    tree.zone("liar.org", zones["liar"], mode="bogus", reload=False)
    tree.reload()
    said = doctor(server, "--mx-domain", "greets.org")

    def of(domain, subject):
        return [(sign, text) for sign, text in about(said, subject) if text.startswith(f"{domain}:")]

    assert {sign for kind in ("dkim", "spf", "dmarc") for sign, _ in of("full.org", kind)} == {"ok"}
    assert len(of("full.org", "dkim")) == 2  # RSA and Ed25519
    assert all(sign == "BAD" and "nothing is at" in text for sign, text in of("bare.org", "dkim")) and of("bare.org", "dkim")
    assert [sign for sign, _ in of("bare.org", "spf") + of("bare.org", "dmarc")] == ["look", "look"]
    assert all(sign == "BAD" and "another record is at" in text for sign, text in of("stale.org", "dkim")) and of("stale.org", "dkim")
    assert all(sign == "look" and "DNSSEC" in text for sign, text in of("liar.org", "dkim")) and of("liar.org", "dkim")


# ---- the resolver -------------------------------------------------------------------------------------------------------


def test_what_the_resolver_is_worth(ours, tree):
    root = {"dns_root_hints": tree.dir / "root.hints"}
    for settings, sign, says in (
        ({}, "ok", "answers are validated"),
        ({"dns": "system"}, "ok", "the system's resolver; DNSSEC: answers are validated"),
        ({"dns": "recursive", **root}, "ok", "recursive; DNSSEC: answers are validated"),
        ({"dns": tree.stripping}, "look", "DNSSEC: off, signatures do not come through"),
    ):
        ((got, text),) = about(doctor(ours(**settings), "--mx-domain", "greets.org"), "dns")
        assert got == sign and says in text, (settings, text)


def test_a_resolver_that_is_away(ours, tree):
    os.kill(tree.unbound.popen.pid, signal.SIGSTOP)
    try:
        server = ours(dns=RESOLVER)
        done = server.command("doctor", "--timeout", "1", "--mx-domain", "greets.org", timeout=120)
    finally:
        os.kill(tree.unbound.popen.pid, signal.SIGCONT)
    assert done.returncode == 1
    assert re.search(r"^BAD +dns +no answer within 5 s", done.stdout, re.M), done.stdout
    assert re.search(r"^BAD +port 25 +.*the name servers gave no answer", done.stdout, re.M), done.stdout

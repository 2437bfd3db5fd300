"""POSTCHUTE_DNS=recursive: names are asked from the root on, here a root of the tests' own, without any resolver."""

import os
import shutil
import signal

import pytest

from peers.postchute import Postchute
from peers.sink import Sink

MX = "11.22.4.20"


@pytest.fixture(scope="module")
def world(_tree, ca):
    tree = _tree
    server = Postchute(hostname="mail.recursive.org", route="mx", dns="recursive", retry_after="300ms")
    added = server.command("domain", "add", "recursive.org", "--zone", "--bounce-address", "bounces@recursive.org")
    assert added.returncode == 0, added.stderr
    tree.zone("recursive.org", added.stdout, reload=False)
    tree.zone("found.org", "@ MX 10 mx.host.found-hosts.org.", reload=False)
    tree.zone("found-hosts.org", f"mx.host CNAME other\nother A {MX}", mode="unsigned", reload=False)
    tree.zone("lies.org", f"@ MX 10 mx\nmx A {MX}", mode="bogus", reload=False)
    tree.zone("old.org", f"@ MX 10 mx\nmx A {MX}", mode="expired", reload=False)
    tree.reload()
    for name, setting in (("root.key", "dns_trust_anchor"), ("root.hints", "dns_root_hints")):
        shutil.copy(tree.dir / name, server.dir / name)
        server.settings[setting] = server.dir / name
    # the resolver that everybody else asks is away meanwhile
    os.kill(tree.unbound.popen.pid, signal.SIGSTOP)
    try:
        with Sink(MX, "mx.host.found-hosts.org", certificate=ca.issue("mx.host.found-hosts.org")) as sink:
            server.start()
            server.wait_verified("recursive.org")
            server.sink = sink
            yield server
            server.stop()
    finally:
        os.kill(tree.unbound.popen.pid, signal.SIGCONT)


def mail(to):
    return {"from": "Ann <ann@recursive.org>", "to": to, "subject": "found", "text": "Hello"}


def test_mail_finds_its_way_from_the_root(world):
    seen = world.deliver(**mail("a@found.org"))
    assert world.sink.ledger[0].rcpts == ["a@found.org"]
    assert world.attempts(seen["id"])[0]["address"] == f"{MX}:25"


def test_signatures_are_validated_on_the_way(world):
    assert world.metric("postchute_dns_validating") == 1
    for name in ("lies.org", "old.org"):
        message = world.send(**mail(f"a@{name}"))["id"]
        refusal = world.wait_state(message, "deferred")["recipients"][0]["refusal"]
        assert refusal["class"] == "dns" and "DNSSEC" in refusal["text"]
        assert world.api().post(f"/v1/messages/{message}/cancel").status_code == 200
    assert not any(rcpt.endswith(("lies.org", "old.org")) for message in world.sink.ledger for rcpt in message.rcpts)


def test_a_name_that_is_not_in_the_tree_does_not_exist(world):
    seen = world.wait_final(world.send(**mail("a@nosuchname.org"))["id"])
    assert seen["recipients"][0]["state"] == "bounced" and seen["recipients"][0]["attempts"] == 2


def test_doctor_says_how_names_are_found(world):
    done = world.command("doctor", "--mx-domain", "found.org")
    assert "recursive; DNSSEC: answers are validated" in done.stdout, done.stdout


@pytest.mark.parametrize("text, says", [(None, "No such file"), ("; nothing\n", "no address of a root server")])
def test_wrong_hints_stop_the_start(postchute, text, says):
    server = postchute(start=False, route="sandbox", dns="recursive")
    server.settings["dns_root_hints"] = hints = server.dir / "hints"
    if text is not None:
        hints.write_text(text)
    server.write_declared()
    for command in ("serve", "check-config"):
        done = server.command(command)
        assert done.returncode == 1 and "POSTCHUTE_DNS_ROOT_HINTS" in done.stdout + done.stderr and says in done.stdout + done.stderr, done

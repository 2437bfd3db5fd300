"""Foreign programs that judge what postchute made: DKIM by dkimpy (records given, or from the tests' DNS) and by OpenDKIM
(from DNS), webhook signatures by two libraries from npm."""

import json
import pathlib
import re
import shutil
import subprocess

import dkim

from .process import check


def signatures(message):
    """The DKIM-Signature fields of a message, each as its tags."""
    head = re.split(rb"\r?\n\r?\n", message, maxsplit=1)[0]
    unfolded = re.sub(rb"\r?\n[ \t]+", b" ", head)
    found = re.findall(rb"^DKIM-Signature:(.*)$", unfolded, re.M | re.I)
    tags = [dict(part.strip().split(b"=", 1) for part in one.split(b";") if b"=" in part) for one in found]
    return [{name.decode(): re.sub(rb"\s", b"", value).decode() for name, value in one.items()} for one in tags]


def dkim_verify(message, records):
    """Wants one valid signature for each algorithm among `records`: {name without dot: text}. Returns their tags."""
    message = re.sub(rb"\r?\n", b"\r\n", message)

    def look_up(name, timeout=5):
        text = records.get(name.decode().rstrip("."))
        return text.encode() if text is not None else None

    found = signatures(message)
    assert found, "the message is not signed"
    for index, tags in enumerate(found):
        assert dkim.DKIM(message, minkey=1024).verify(idx=index, dnsfunc=look_up), f"dkimpy refuses {tags}"
    return found


def opendkim_verify(message):
    """Wants OpenDKIM, asking the DNS of this world, to accept the message's first signature that it knows."""
    done = subprocess.run(["opendkim-testmsg"], input=re.sub(rb"\r?\n", b"\r\n", message), capture_output=True, timeout=30)
    assert done.returncode == 0, f"OpenDKIM: {done.stdout!r} {done.stderr!r}"


def webhooks_verify(deliveries):
    """`deliveries`: [(headers, body text, [secrets])]. Wants each accepted, and its forgeries refused, by npm's
    standardwebhooks and svix."""
    lines = [json.dumps({"headers": headers, "body": body, "secrets": secrets}) for headers, body, secrets in deliveries]
    script = pathlib.Path(__file__).resolve().parents[1] / "verify_webhook.mjs"
    node = shutil.which("node") or "/usr/local/bin/node"
    out = check(node, script, input="\n".join(lines) + "\n")
    assert out.strip() == f"ok {len(deliveries)}", out

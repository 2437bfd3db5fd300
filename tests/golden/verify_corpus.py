#!/usr/bin/python3
"""Random signed messages against verifiers and parsers that are not ours.

    tests/golden/verify_corpus.py [--count 2000] [--seed 1] [--generator build/release/tests/e2e/tool_generate]

The generator writes messages and the fields that they were made of. Every message must
  - have both signatures (RSA, Ed25519) verified by dkimpy, OpenDKIM and mailauth,
  - fail in all three once a field is added that is signed "once more than present", or the body grows (T13),
  - obey the rules for octets and lines (T1, M1), and hold no Bcc recipient in any byte (T12),
  - give the same fields back through Python's email and through npm's mailparser (M lines, T3).
Needs python3-dkim, python3-nacl, opendkim, and mailauth and mailparser below build/npm.
"""
import argparse
import base64
import email
import email.header
import email.policy
import email.utils
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import dkim

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SELECTORS = ["rsa1", "ed1"]
TAMPERED = 60  # messages that are tampered with, each in every way


class Report:
    def __init__(self):
        self.failures = 0
        self.counts = {}

    def check(self, what, ok, name, detail=""):
        passed, total = self.counts.get(what, (0, 0))
        self.counts[what] = (passed + bool(ok), total + 1)
        if not ok:
            self.failures += 1
            if self.counts[what][1] - self.counts[what][0] <= 4:
                print(f"FAIL {what}: {name}: {detail}", file=sys.stderr)


# ---- signatures ---------------------------------------------------------------------------------


def read_keys(directory):
    with open(os.path.join(directory, "keys"), encoding="ascii") as f:
        return dict(line.rstrip("\n").split(" ", 1) for line in f)


def with_one_signature(data, selector):
    """OpenDKIM reports one signature a message: the others are taken away."""
    head, sep, body = data.partition(b"\r\n\r\n")
    fields = re.split(rb"\r\n(?![ \t])", head)
    keep = [f for f in fields if not f.startswith(b"DKIM-Signature:") or b" s=%s;" % selector.encode() in f]
    return b"\r\n".join(keep) + sep + body


def dkimpy_results(data, records):
    def dnsfunc(name, timeout=5):
        name = name.decode() if isinstance(name, bytes) else name
        return records.get(name.rstrip("."), "").encode()

    out = []
    for index in range(len(SELECTORS)):
        try:
            out.append(dkim.DKIM(data, minkey=1024).verify(idx=index, dnsfunc=dnsfunc))
        except dkim.DKIMException:
            out.append(False)
    return out


def opendkim_results(directory, messages):
    """{(name, selector): verified}"""
    work = os.path.join(directory, "opendkim")
    os.makedirs(work, exist_ok=True)
    conf = os.path.join(work, "conf")
    with open(conf, "w", encoding="ascii") as f:
        f.write(f"Mode v\nTestPublicKeys {directory}/keys\n")
    for name, data in messages.items():
        for selector in SELECTORS:
            with open(os.path.join(work, f"{name}.{selector}"), "wb") as f:
                f.write(with_one_signature(data, selector))
    paths = [f"{name}.{selector}" for name in messages for selector in SELECTORS]
    out = {}
    for start in range(0, len(paths), 200):
        run = subprocess.run(["opendkim", "-x", conf, "-t", ",".join(paths[start:start + 200])], cwd=work,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        for line in run.stdout.decode("utf-8", "replace").splitlines():
            m = re.match(r"opendkim: (\S+)\.(\w+): verification \(s=(\w+),? .*\) (succeeded|failed)", line)
            if m:
                out[(m[1], m[2])] = m[2] == m[3] and m[4] == "succeeded"
    shutil.rmtree(work)
    return out


def npm_results(directory, dkim_only=False):
    env = dict(os.environ, NODE_PATH=os.path.join(ROOT, "build/npm/node_modules"))
    run = subprocess.run(["node", os.path.join(ROOT, "tests/golden/verify_npm.js"), directory] +
                         (["--dkim-only"] if dkim_only else []), env=env, stdout=subprocess.PIPE, check=True)
    return {r["name"][:-4]: r for r in map(json.loads, run.stdout.splitlines())}


def check_signatures(report, directory, messages, records, npm, want=True, what="signature"):
    opendkim = opendkim_results(directory, messages)
    for name, data in messages.items():
        by_dkimpy = dkimpy_results(data, records)
        by_mailauth = {r[0]: r[1] == "pass" for r in npm[name]["dkim"]}
        for index, selector in enumerate(SELECTORS):
            # a message that OpenDKIM says nothing about counts as not verified, never as rejected
            for verifier, got in (("dkimpy", by_dkimpy[index]), ("opendkim", opendkim.get((name, selector))),
                                  ("mailauth", by_mailauth.get(selector))):
                report.check(f"{what} {selector} {verifier}", got is want, name, f"{got}, not {want}")


ADDED = {
    "from": b"From: Evil <evil@evil.example>\r\n", "subject": b"Subject: evil\r\n", "to": b"To: evil@evil.example\r\n",
    "cc": b"Cc: evil@evil.example\r\n", "date": b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n",
    "reply-to": b"Reply-To: evil@evil.example\r\n", "message-id": b"Message-ID: <evil@evil.example>\r\n",
    "mime-version": b"MIME-Version: 1.0\r\n", "content-type": b"Content-Type: text/html\r\n",
    "content-transfer-encoding": b"Content-Transfer-Encoding: base64\r\n",
    "content-disposition": b"Content-Disposition: attachment\r\n",
    "list-unsubscribe": b"List-Unsubscribe: <https://evil.example/>\r\n",
    "list-unsubscribe-post": b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
}


def check_tampering(report, directory, messages, records):
    picked = list(messages.items())[:TAMPERED]
    for what, field in list(ADDED.items()) + [("body", None)]:
        sub = os.path.join(directory, "tampered")
        os.makedirs(sub)
        shutil.copy(os.path.join(directory, "keys"), sub)
        tampered = {}
        for name, data in picked:
            tampered[name] = data + b"more\r\n" if field is None else field + data
            with open(os.path.join(sub, name + ".eml"), "wb") as f:
                f.write(tampered[name])
        check_signatures(report, sub, tampered, records, npm_results(sub, dkim_only=True), want=False,
                         what=f"added {what}")
        shutil.rmtree(sub)


# ---- octets -------------------------------------------------------------------------------------


def check_octets(report, name, data, want):
    report.check("line ends are CRLF", not re.search(rb"\r(?!\n)|(?<!\r)\n", data), name)
    report.check("ends in CRLF", data.endswith(b"\r\n"), name)
    report.check("no NUL", b"\0" not in data, name)
    lines = data.split(b"\r\n")
    report.check("lines are at most 998", max(map(len, lines)) <= 998, name)
    if want is None:
        return
    head = data.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    report.check("no header line is white space only", all(line.strip(b" \t") for line in head), name)
    report.check("header lines of words are at most 78",
                 all(len(line) <= 78 or len(line.split()) <= 2 for line in head), name)
    report.check("lines with an encoded-word are at most 76",
                 all(len(line) <= 76 for line in head if b"=?utf-8?" in line), name)
    report.check("encoded-words are at most 75",
                 all(len(w) <= 75 for w in re.findall(rb"=\?utf-8\?[QB]\?[^?]*\?=", b"\n".join(head))), name)
    if want["smtputf8"]:
        data = b"\n".join(line for line in head + lines[len(head):] if line.isascii())
    else:
        report.check("us-ascii", data.isascii(), name)
    for address in want["bcc"]:
        for secret in (address["email"], address["email"].split("@")[0], address["name"], "secret.example"):
            report.check("no Bcc", secret.encode() not in data and
                         base64.b64encode(secret.encode()) not in data, name, secret)


# ---- fields -------------------------------------------------------------------------------------


def lf(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decoded(text):
    return "" if text is None else str(email.header.make_header(email.header.decode_header(text)))


def unfolded(msg, name):
    value = msg[name]
    return None if value is None else re.sub(r"\r?\n(?=[ \t])", "", str(value))


def spaces(text):
    """For readers that do not keep runs of white space."""
    return re.sub(r"\s+", " ", text or "").strip()


def names(value):
    # not policy.default, which puts a space between the encoded-words of a name
    return [] if value is None else [decoded(n) for n, _ in email.utils.getaddresses([value])]


def emails(header):
    # it drops the quotes of a local part that it thinks needs none
    return [] if header is None else [a.addr_spec.replace('"', "") for a in header.addresses]


def has_literal(addresses):
    """user@[192.0.2.1]: getaddresses and mailparser refuse the whole field."""
    return any("[" in a["email"] for a in addresses)


def python_parts(msg):
    """(bodies, attachments) by the structure that composing promises."""
    bodies, attachments = {}, []

    def walk(part, is_first):
        kind = part.get_content_type()
        if kind.startswith("multipart/"):
            for i, sub in enumerate(part.iter_parts()):
                walk(sub, is_first if i == 0 else kind == "multipart/alternative")
        elif is_first and kind in ("text/plain", "text/html"):
            bodies[kind] = part.get_payload(decode=True).decode("utf-8")
        else:
            attachments.append(part)

    walk(msg, True)
    return bodies, attachments


def expected_attachments(want):
    """In the order of the message: related ones first."""
    every = want["attachments"]
    return [a for a in every if a["related"]] + [a for a in every if not a["related"]]


def expected_type(a):
    kind = (a["type"] or "application/octet-stream").split(";")[0]
    is_7bit = base64.b64decode(a["content"]).isascii()
    return kind if kind != "message/rfc822" or is_7bit else "application/octet-stream"


def check_python(report, name, data, want):
    def same(what, got, wanted):
        report.check("email: " + what, got == wanted, name, f"{got!r}, not {wanted!r}")

    text = data.decode("utf-8")
    old = email.message_from_string(text, policy=email.policy.compat32)
    msg = email.message_from_string(text, policy=email.policy.default.clone(utf8=True))
    for field in ("from", "to", "cc", "reply_to", "sender"):
        wanted = want[field]
        if field == "to" and not want["to"] + want["cc"]:
            same("nobody is told", unfolded(old, "to"), "undisclosed-recipients:;")
        else:
            key = field.replace("_", "-")
            same(field, emails(msg[key]), [a["email"].replace('"', "") for a in wanted])
            if not has_literal(wanted):
                same(field + " names", names(unfolded(old, key)), [a["name"] for a in wanted])
    same("no bcc", msg["bcc"], None)
    same("subject", msg["subject"] or "", want["subject"] or "")
    same("message id", msg["message-id"], want["message_id"])
    same("in-reply-to", msg["in-reply-to"], want["in_reply_to"])
    same("references", (msg["references"] or "").split(), want["references"])
    present = [k.lower() for k in msg.keys()]
    for once in ("date", "from", "sender", "reply-to", "to", "cc", "subject", "message-id", "mime-version"):
        report.check("email: fields stand once", present.count(once) <= 1, name, once)
    allowed = {"dkim-signature", "date", "from", "sender", "reply-to", "to", "cc", "subject", "message-id",
               "in-reply-to", "references", "mime-version", "content-type", "content-transfer-encoding",
               "content-disposition", "content-id"} | {h[0].lower() for h in want["headers"]}
    same("no other fields", sorted(set(present) - allowed), [])
    for key, value in want["headers"]:
        same("header", re.sub(r"\s+", " ", str(msg[key])), re.sub(r"\s+", " ", value.strip(" ").replace(">,<", ">, <")))
    bodies, attachments = python_parts(msg)
    for kind, field in (("text/plain", "text"), ("text/html", "html")):
        if want[field] is None:
            same(field, bodies.get(kind), None)
            continue
        wanted = lf(want[field]).replace("\n", "\r\n")
        ends = [wanted] if msg.is_multipart() else [wanted, wanted + "\r\n"]
        report.check("email: " + field, bodies.get(kind) in ends, name, f"{bodies.get(kind)!r}, not {wanted!r}")
    wanted = expected_attachments(want)
    same("attachment count", len(attachments), len(wanted))
    for part, a in zip(attachments, wanted):
        same("attachment type", part.get_content_type(), expected_type(a))
        # it takes quotes and angle brackets off the ends of a decoded name
        same("attachment name", spaces(part.get_filename()).strip("<>\"'"), spaces(a["filename"]).strip("<>\"'"))
        same("attachment id", part["content-id"], a["cid"] and f"<{a['cid']}>")
        same("disposition", part.get_content_disposition(), "inline" if a["inline"] else "attachment")
        if part.get_content_type() == "message/rfc822":
            same("message type is not encoded", part["content-transfer-encoding"], "7bit")
        else:
            same("attachment", part.get_payload(decode=True), base64.b64decode(a["content"]))


def check_mailparser(report, name, got, want):
    def same(what, value, wanted):
        report.check("mailparser: " + what, value == wanted, name, f"{value!r}, not {wanted!r}")

    def lists(addresses):
        # it unquotes local parts, and shows A-labels as Unicode: compare what it leaves alone
        return [spaces(a["name"]) for a in addresses]

    for field in ("from", "to", "cc", "reply_to"):
        if not has_literal(want[field]):
            same(field, lists(got[field]), lists(want[field]))
    same("no bcc", got.get("bcc"), [])
    same("subject", spaces(got.get("subject")), spaces(want["subject"]))
    same("message id", got["message_id"], want["message_id"])
    same("references", got["references"], want["references"])
    same("headers", [[h[0], spaces(h[1])] for h in got["headers"]],
         [[h[0].lower(), spaces(h[1])] for h in want["headers"] if h[0].lower().startswith("x-custom")])
    # text shown inline and messages are merged into its text and attachments: nothing to compare then
    if any(a["inline"] and expected_type(a).startswith(("text/", "message/")) for a in want["attachments"]):
        return
    for field in ("text", "html"):
        value = got.get(field) or ""
        same(field, value.rstrip("\n"), lf(want[field] or "").rstrip("\n"))
    wanted = [a for a in expected_attachments(want) if expected_type(a) != "message/rfc822"]
    attachments = [a for a in got["attachments"] if a["type"] != "message/rfc822"]
    same("attachment count", len(attachments), len(wanted))
    for value, a in zip(attachments, wanted):
        if "=?" not in (a["filename"] or ""):  # it decodes such words even out of an RFC 2231 value
            same("attachment name", spaces(value.get("filename")), spaces(a["filename"]))
        same("attachment", value["content"], a["content"])


# ---- all of it ----------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--generator", default=os.path.join(ROOT, "build/release/tests/e2e/tool_generate"))
    parser.add_argument("--keep", help="write the messages here and leave them")
    args = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as temporary:
        directory = os.path.abspath(args.keep or temporary)
        os.makedirs(directory, exist_ok=True)
        subprocess.run([args.generator, directory, str(args.count), str(args.seed)], check=True)
        records = read_keys(directory)
        names = [f"{i:05}" for i in range(args.count)]
        messages = {}
        for name in names:
            with open(os.path.join(directory, name + ".eml"), "rb") as f:
                messages[name] = f.read()
        npm = npm_results(directory)
        check_signatures(report, directory, messages, records, npm)
        for name, data in messages.items():
            path = os.path.join(directory, name + ".json")
            want = None
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f:
                    want = json.load(f)
            check_octets(report, name, data, want)
            if want is not None:
                check_python(report, name, data, want)
                check_mailparser(report, name, npm[name]["parsed"], want)
        check_tampering(report, directory, messages, records)
    for what, (passed, total) in sorted(report.counts.items()):
        if not what.startswith("added ") or passed != total:
            print(f"{what}: {passed}/{total}")
    added = [v for k, v in report.counts.items() if k.startswith("added ")]
    print(f"tampering is found: {sum(p for p, _ in added)}/{sum(t for _, t in added)}")
    print(f"corpus: {args.count} messages, {report.failures} failures")
    return 1 if report.failures or args.count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

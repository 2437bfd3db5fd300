#!/usr/bin/python3
"""Random signed messages against verifiers and parsers that are not ours.

    tests/golden/verify_corpus.py [--count 2000] [--seed 1] [--generator build/release/tests/e2e/tool_generate]

The generator writes messages and the fields that they were made of. Every message must
  - have both signatures (RSA, Ed25519) verified by dkimpy, OpenDKIM and mailauth (K lines),
  - fail in all three once a field is added that is signed "once more than present", or the body grows (T13),
  - obey the rules for octets and lines (T1, M1), and hold no Bcc recipient in any byte (T12; for this --blind makes more messages),
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
        if want:
            check_signature_fields(report, name, data)
        for index, selector in enumerate(SELECTORS):
            # a message that OpenDKIM says nothing about counts as not verified, never as rejected
            for verifier, got in (("dkimpy", by_dkimpy[index]), ("opendkim", opendkim.get((name, selector))),
                                  ("mailauth", by_mailauth.get(selector))):
                report.check(f"{what} {selector} {verifier}", got is want, name, f"{got}, not {want}")
                if want:
                    report.check({"rsa1": "K1 K4 K7 K9 rsa-sha256 signatures verify", "ed1": "K3 K4 K7 K9 ed25519-sha256 signatures verify"}[selector],
                                 got is True, name, verifier)


OVERSIGNED = ("from", "to", "cc", "subject", "date", "reply-to", "message-id", "mime-version", "content-type", "content-transfer-encoding",
              "content-disposition", "list-unsubscribe", "list-unsubscribe-post")


def check_signature_fields(report, name, data):
    fields = re.split(rb"\r\n(?![ \t])", data.split(b"\r\n\r\n", 1)[0])
    present = [f.split(b":", 1)[0].strip().lower().decode("ascii") for f in fields]
    signatures = [f.split(b":", 1)[1].decode("ascii") for f, n in zip(fields, present) if n == "dkim-signature"]
    selectors = set()
    for text in signatures:
        tags = [t.split("=", 1) for t in re.sub(r"\s+", "", text).split(";") if t]
        names = [t[0] for t in tags]
        tags = dict(tags)
        selectors.add(tags.get("s"))
        report.check("K5 K14 all tags are there, once", sorted(names) == ["a", "b", "bh", "c", "d", "h", "s", "t", "v"], name, str(names))
        signed = tags["h"].lower().split(":")
        report.check("T13 h= names each field once more than it stands",
                     all(signed.count(n) == present.count(n) + 1 for n in OVERSIGNED), name, tags["h"])
        report.check("K7 K8 h= has From and no signature", "from" in signed and "dkim-signature" not in signed, name, tags["h"])
        report.check("M28 both fields of one-click are signed", all(n in signed for n in ("list-unsubscribe", "list-unsubscribe-post")), name)
    report.check("K15 the signatures have different selectors", len(signatures) == 2 and len(selectors) == 2, name, str(selectors))
    report.check("K11 signatures stand in front", present[:2] == ["dkim-signature"] * 2, name)


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
    report.check("M3 line ends are CRLF", not re.search(rb"\r(?!\n)|(?<!\r)\n", data), name)
    report.check("ends in CRLF", data.endswith(b"\r\n"), name)
    report.check("no NUL", b"\0" not in data, name)
    whole = data
    lines = data.split(b"\r\n")
    report.check("M1 lines are at most 998", max(map(len, lines)) <= 998, name)
    if want is None:
        return
    head = data.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    report.check("M4 no header line is white space only", all(line.strip(b" \t") for line in head), name)
    report.check("M1 header lines of words are at most 78",
                 all(len(line) <= 78 or len(line.split()) <= 2 for line in head), name)
    report.check("M22 lines with an encoded-word are at most 76",
                 all(len(line) <= 76 for line in head if b"=?utf-8?" in line), name)
    report.check("M22 encoded-words are at most 75",
                 all(len(w) <= 75 for w in re.findall(rb"=\?utf-8\?[QB]\?[^?]*\?=", b"\n".join(head))), name)
    if want["smtputf8"]:
        data = b"\n".join(line for line in head + lines[len(head):] if line.isascii())
    else:
        report.check("M25 us-ascii unless an address needs SMTPUTF8", data.isascii(), name)
    check_blind(report, name, whole, want)


def traces(secret):
    """How a text can stand in a message: as it is, in hex, percent octets or quoted-printable, in base64 at each of its three offsets."""
    plain = secret.encode()
    out = [plain, plain.hex().encode(), b"".join(b"%%%02x" % c for c in plain), b"".join(b"=%02x" % c for c in plain)]
    for offset in range(3):
        coded = base64.b64encode(b"\0" * offset + plain)
        out.append(coded[(0, 2, 3)[offset]:len(coded) - (0, 4, 4)[(len(plain) + offset) % 3]].lower())
    return out


def check_blind(report, name, data, want):
    flat = data.lower()
    joined = re.sub(rb"=?\r\n[ \t]?", b"", flat)  # what a line end cuts
    for address in want["bcc"]:
        for secret in (address["email"], address["email"].split("@")[0], address["name"].lower(), "secret.example"):
            for trace in traces(secret.lower()) + traces(secret):
                report.check("T12 no Bcc in any byte", trace.lower() not in flat and trace.lower() not in joined, name, secret)


def check_coding(report, name, msg):
    """What each part says about itself, by the octets that it has (msg was parsed from octets that are all ASCII, or with SMTPUTF8)."""
    for part in msg.walk():
        encoding, body = part["content-transfer-encoding"] or "7bit", part.get_payload()
        if part.is_multipart():
            report.check("M14 multiparts and messages are not encoded", encoding == "7bit", name, str(encoding))
            if part.get_content_maintype() == "multipart":
                boundary = part.get_boundary()
                inner = "\n".join(p.get_payload() for p in part.iter_parts() if not p.is_multipart())
                report.check("M20 boundaries are short and in no part", len(boundary) <= 70 and boundary[-1] != " " and boundary not in inner, name, boundary)
            if part.get_content_subtype() == "alternative":
                kinds = [p.get_content_type() for p in part.iter_parts()]
                report.check("M21 plain stands before html", kinds == ["text/plain", "text/html"], name, str(kinds))
            continue
        lines = re.split("\r?\n", body)
        if encoding == "7bit":
            report.check("M13 7bit is 7bit", body.isascii() and max(map(len, lines)) <= 998 and "\0" not in body, name)
        elif encoding == "quoted-printable":
            report.check("M13 M15 quoted-printable is written by the rules",
                         all(len(line) <= 76 and re.fullmatch(r"(?:[!-<>-~\t ]|=[0-9A-F]{2})*=?", line) and not re.search(r"[ \t]$", line) for line in lines), name)
        else:
            report.check("M13 encodings are known", encoding == "base64", name, str(encoding))
            report.check("M16 base64 is written by the rules", all(len(line) <= 76 for line in lines) and
                         re.fullmatch(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", "".join(lines)), name)
        content = part.get_payload(decode=True)
        if part.get_content_maintype() == "text":
            report.check("M19 text beyond us-ascii says its charset", content.isascii() or part.get_content_charset() in ("utf-8", "unknown-8bit"), name)
            if part.get_filename() is None and part["content-disposition"] is None:
                report.check("M18 lines of text end in CRLF", encoding == "7bit" or not re.search(rb"\r(?!\n)|(?<!\r)\n", content), name)


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
    report.check("M22 M23 Python reads the subject", (msg["subject"] or "") == (want["subject"] or ""), name, str(msg["subject"]))
    report.check("M12 MIME-Version: 1.0", old.get_all("mime-version") == ["1.0"], name)
    date = email.utils.parsedate_to_datetime(old["date"])
    report.check("M5 the date is valid", date.utcoffset() is not None and old["date"] == email.utils.format_datetime(date), name, old["date"])
    defects = [str(d) for part in msg.walk() for d in part.defects] + [str(d) for h in msg.values() for d in getattr(h, "defects", [])]
    defects = [d for d in defects if not (want["smtputf8"] and "non-ASCII" in d)]
    report.check("M10 Python finds nothing obsolete or wrong", not defects, name, str(defects[:3]))
    check_coding(report, name, msg)
    same("message id", msg["message-id"], want["message_id"])
    same("in-reply-to", msg["in-reply-to"], want["in_reply_to"])
    same("references", (msg["references"] or "").split(), want["references"])
    present = [k.lower() for k in msg.keys()]
    for once in ("date", "from", "sender", "reply-to", "to", "cc", "subject", "message-id", "mime-version"):
        report.check("M6 fields stand once", present.count(once) <= 1, name, once)
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
        if a["filename"] and not a["filename"].isascii():
            report.check("M24 Python reads file names", spaces(part.get_filename()).strip("<>\"'") == spaces(a["filename"]).strip("<>\"'"), name)
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
    parser.add_argument("--blind", type=int, default=11400, help="so many more, of which only octets are looked at (T12: three in four have a Bcc)")
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
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([args.generator, directory, str(args.blind), str(args.seed + 1)], check=True)
        for i in range(args.blind):
            path = os.path.join(directory, f"{i:05}")
            if not os.path.exists(path + ".json"):
                continue
            with open(path + ".eml", "rb") as eml, open(path + ".json", encoding="utf-8") as j:
                check_octets(report, f"blind {i}", eml.read(), json.load(j))
    for what, (passed, total) in sorted(report.counts.items()):
        if not what.startswith("added ") or passed != total:
            print(f"{what}: {passed}/{total}")
    added = [v for k, v in report.counts.items() if k.startswith("added ")]
    print(f"T13 tampering is found by all verifiers: {sum(p for p, _ in added)}/{sum(t for _, t in added)}")
    print(f"corpus: {args.count} messages and the octets of {args.blind} more, {report.failures} failures")
    return 1 if report.failures or args.count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

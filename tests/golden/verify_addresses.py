#!/usr/bin/python3
"""T5: our address parser against Python's email, Perl's Email::Address::XS and the parser that npm's mailparser has.

    tests/golden/verify_addresses.py [--random 20000] [--seed 1] [--tool build/release/tests/e2e/tool_address]

tests/golden/addresses.txt holds addresses that are easy to misread, each with "+" (accepted) or "-" (refused); from these, random ones
are made by mixing and changing. We are stricter or equal: whatever we accept, each of the others reads as exactly one address with the same local
part and the same domain, or refuses it for one of the reasons in EXCEPT; and what we print, too.
Needs libemail-address-xs-perl, and mailparser below build/npm.
"""
import argparse
import email.errors
import email.policy
import email.utils
import ipaddress
import json
import os
import random
import re
import subprocess
import sys

import dns.exception
import dns.name

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIST = os.path.join(ROOT, "tests/golden/addresses.txt")
failures = 0
counts = {}


def check(what, ok, detail):
    global failures
    passed, total = counts.get(what, (0, 0))
    counts[what] = (passed + bool(ok), total + 1)
    if not ok:
        failures += 1
        if total - passed < 12:
            print(f"FAIL {what}: {detail}", file=sys.stderr)


def unescape(line):
    return re.sub(rb"\\(\\|x[0-9a-fA-F]{2})", lambda m: b"\\" if m[1] == b"\\" else bytes([int(m[1][1:], 16)]), line)


def run(command, items, env=None):
    done = subprocess.run(command, input=b"".join(i.hex().encode() + b"\n" for i in items), stdout=subprocess.PIPE, check=True,
                          env=dict(os.environ, **(env or {})))
    out = [json.loads(line) for line in done.stdout.decode("utf-8").split("\n")[:-1]]
    assert len(out) == len(items), f"{command[0]}: {len(out)} answers for {len(items)} addresses"
    return out


# ---- each reader gives a list of (local part as meant, domain as written) -----------------------------------------------


def split(address):
    """At the last "@" outside of a literal."""
    local, _, domain = address.rpartition("@")
    return local, domain


def unquoted(local):
    if len(local) >= 2 and local[0] == local[-1] == '"':
        return re.sub(r"\\(.)", r"\1", local[1:-1], flags=re.S)
    return local


def read_python(text):
    try:
        return [(a.username, a.domain) for a in email.policy.default.header_factory("To", text).addresses]
    except (AttributeError, IndexError, ValueError, TypeError, email.errors.MessageError):
        return []  # it stumbles over some names, such as a lone dot


def read_python_legacy(text):
    return [(unquoted(split(a)[0]), split(a)[1]) for _, a in email.utils.getaddresses([text]) if a]


def is_refused(got):
    return not got or got == [("", "")]


# what a reader refuses though it is legal; whatever else it refuses is a fault
EXCEPT = {
    "Python's email": r"\.<",
    "Python's getaddresses": r"[\[\]]|\\",
    "Email::Address::XS": r"^$",
    "mailparser": r"\[ipv6:",
}


def to_a_label(domain):
    """The domain as it is compared: A-labels in lower case; literals in one spelling. None when it is none."""
    if domain.startswith("["):
        return re.sub(r"^\[ipv6:", "[ipv6:", domain.lower())
    if domain.isascii():
        return domain.lower()
    try:
        return dns.name.from_unicode(domain, origin=None, idna_codec=dns.name.IDNA_2008_UTS_46).to_text().lower()
    except dns.name.NoIDNA2008:
        raise  # python3-idna is missing
    except (dns.exception.DNSException, UnicodeError):
        return None  # that library knows no such name


def same_domain(theirs, ours):
    """Ours is an A-label already; a reader shows what was written."""
    if ours.startswith("[IPv6:"):
        match = re.fullmatch(r"\[ipv6:([0-9a-f:.]+)\]", theirs.lower())
        return bool(match) and ipaddress.ip_address(match[1]) == ipaddress.ip_address(ours[6:-1])
    return to_a_label(theirs) in (ours, None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tool", default=os.path.join(ROOT, "build/release/tests/e2e/tool_address"))
    args = parser.parse_args()
    wanted, items = [], []
    with open(LIST, "rb") as f:
        for line in f.read().split(b"\n"):
            if line[:2] in (b"+ ", b"- "):
                wanted.append(line[:1] == b"+")
                items.append(unescape(line[2:]))
    fixed = len(items)
    items += make_random(items, args.random, args.seed)
    ours = run([args.tool], items)
    for i in range(fixed):
        check("T5 the list's own verdicts", ("refused" not in ours[i]) == wanted[i], f"{items[i]!r}: {ours[i]}")
    accepted = [(items[i].decode("utf-8"), ours[i]) for i in range(len(items)) if "refused" not in ours[i]]
    compare("as given", [text for text, _ in accepted], [o for _, o in accepted])
    printed = [o for _, o in accepted]
    compare("as printed", [o["email"] for o in printed], printed)
    for what, (passed, total) in sorted(counts.items()):
        print(f"{what}: {passed}/{total}")
    print(f"addresses: {fixed} listed, {args.random} made of them, {len(accepted)} accepted, {failures} failures")
    return 1 if failures or fixed < 300 else 0


def make_random(items, count, seed):
    rng = random.Random(seed)
    alphabet = [b'"', b"\\", b"@", b".", b"<", b">", b"(", b")", b",", b";", b":", b"[", b"]", b" ", b"a", b"b", b"=?", b"?=", b"%", b"!", b"\t", b"\r\n",
                b"\0", "ü".encode(), "。".encode(), "\u00a0".encode(), "\u202e".encode(), b"IPv6:", b"xn--", b"example.net", b"evil.example"]
    out = []
    for _ in range(count):
        one = rng.choice(items)[:200]
        for _ in range(rng.randint(1, 3)):
            at = rng.randint(0, len(one))
            kind = rng.randrange(4)
            if kind == 0:
                one = one[:at] + rng.choice(alphabet) + one[at:]
            elif kind == 1:
                one = one[:at] + one[at + rng.randint(1, 3):]
            elif kind == 2:
                one = one[:at] + rng.choice(items)[:200][at:]
            else:
                one = one[:at] + rng.choice(alphabet) + one[at + 1:]
        out.append(one)
    return out


def compare(form, texts, ours):
    raw = [t.encode("utf-8") for t in texts]
    perl = run(["perl", os.path.join(ROOT, "tests/golden/verify_addresses.pl")], raw)
    node = run(["node", os.path.join(ROOT, "tests/golden/verify_addresses.js")], raw, {"NODE_PATH": os.path.join(ROOT, "build/npm/node_modules")})
    for text, our, by_perl, by_node in zip(texts, ours, perl, node):
        local = unquoted(our["local"])
        reads = {
            "Python's email": read_python(text),
            "Python's getaddresses": read_python_legacy(text),
            "Email::Address::XS": [(a["local"], a["domain"]) for a in by_perl if a["valid"]],
            "mailparser": [split(a["email"]) for a in by_node],
        }
        if form == "as given" and "=?" in text:
            del reads["Python's email"]  # it decodes encoded-words, which the API's text has none of
        for reader, got in reads.items():
            if is_refused(got):
                check(f"T5 {form}: {reader} knows it", re.search(EXCEPT[reader], text, re.I), repr(text))
                continue
            # mailparser leaves the quotes when there are angle brackets
            good = len(got) == 1 and local in (got[0][0], unquoted(got[0][0])) and same_domain(got[0][1], our["domain"])
            check(f"T5 {form}: {reader} agrees", good, f"{text!r} is {our['email']!r}, not {got!r}")


if __name__ == "__main__":
    sys.exit(main())

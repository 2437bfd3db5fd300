"""Holds a stopped server's outbox against what clients were promised and what receivers took.

judge() takes the ledgers of tool_load ("ask KEY", "ack KEY ID", "no KEY STATUS"), of tool_sink ("got|dropped|deferred KEY MESSAGE-ID
RECIPIENT") and of tool_hook ("hook|refused|dropped EVENT-ID"), the folder of the outbox (or what was read of it before), and how many attempts
were under way at all kills together (None: the caller sums up). Each violation has a name and examples; no name, no violation. `wanted` says which
final states a recipient may have, `is_seen` whether the receiver that keeps the ledger is where a message goes. self_test() damages a good
result in each way that counts, and wants it found.
"""
import collections
import os
import shutil
import sqlite3
import uuid

DELIVERED = 3
FINAL = {3, 4, 5, 6, 7, 8}
EVENT_ACCEPTED, EVENT_COMPLETED = 0, 2
EVENT_OF_STATE = {3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9}
FLAG_DUPLICATE = 2


class Verdict:
    def __init__(self):
        self.numbers, self.violations = {}, collections.OrderedDict()

    def wrong(self, name, example):
        self.violations.setdefault(name, []).append(example)

    def summary(self):
        return {**self.numbers, "violations": {name: len(v) for name, v in self.violations.items()},
                "examples": {name: v[:3] for name, v in self.violations.items()}}


def read_lines(path):
    """A line that was being written when its writer was killed does not count."""
    if not os.path.exists(path):
        return []
    with open(path, "rb") as f:
        return [line.decode().split() for line in f.read().split(b"\n")[:-1]]


class Box:
    """What judge() wants to know of an outbox."""

    def __init__(self):
        self.integrity, self.balance, self.accepted = "ok", 0, 0
        self.messages = {}  # id -> (seq, key)
        self.ids = collections.defaultdict(set)  # key -> ids
        self.recipients = collections.defaultdict(dict)  # seq -> {email: (state, duplicate, key)}
        self.whole = collections.defaultdict(collections.Counter)  # seq -> types of events about the message
        self.of_recipient = collections.defaultdict(list)  # recipient key -> [(type, flags)]
        self.notified = {}  # event id -> state of its notification
        self.wanted = set()  # events that the receiver of webhooks is to be told


class Outbox(Box):
    def __init__(self, folder):
        super().__init__()
        db = sqlite3.connect(os.path.join(folder, "outbox.db"))
        self.integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
        for id_, seq, key in db.execute("SELECT id, seq, external_id FROM message"):
            self.messages[str(uuid.UUID(bytes=id_))] = (seq, key)
            self.ids[key].add(str(uuid.UUID(bytes=id_)))
        for key, email, state, duplicate in db.execute("SELECT key, email, state, duplicate FROM recipient"):
            self.recipients[key // 1024][email] = (state, duplicate, key)
        for type_, message, recipient, flags in db.execute("SELECT type, message, recipient, flags FROM event ORDER BY seq"):
            if recipient is None:
                self.whole[message][type_] += 1
            else:
                self.of_recipient[recipient].append((type_, flags))
        self.notified = {str(uuid.UUID(bytes=id_)): state for id_, state in db.execute(
            "SELECT e.id, n.state FROM notification n JOIN event e ON e.seq = n.event")}
        self.wanted = {str(uuid.UUID(bytes=id_)) for (id_,) in db.execute("SELECT id FROM event WHERE type = ?", (EVENT_COMPLETED,))}
        counter = db.execute("SELECT accepted, scheduled + queued + sending + delivered + bounced + failed + expired + suppressed"
                             " + canceled FROM counter").fetchone()
        self.balance = counter[0] - counter[1]
        self.accepted = counter[0]
        db.close()


def judge_client(v, box, lines):
    asked, acked, refused = set(), collections.defaultdict(set), 0
    for line in lines:
        if line[0] == "ask":
            asked.add(line[1])
        elif line[0] == "ack":
            acked[line[1]].add(line[2])
        else:
            refused += 1
            v.wrong("refused", line)
    for key, ids in acked.items():
        if len(ids) > 1:
            v.wrong("two ids for one Idempotency-Key", (key, sorted(ids)))
        for id_ in ids:
            if box.messages.get(id_, (0, None))[1] != key:
                v.wrong("lost: acknowledged, and not in the outbox", (key, id_))
    for key, ids in box.ids.items():
        if len(ids) > 1:
            v.wrong("two messages for one Idempotency-Key", (key, sorted(ids)))
        if key not in asked:
            v.wrong("invented: in the outbox, and never asked for", key)
    v.numbers.update(asked=len(asked), acknowledged=len(acked), refused=refused)
    return asked


def judge_sink(v, box, asked, lines, under_way, is_seen):
    taken, message_ids, dropped = collections.Counter(), collections.defaultdict(set), 0
    for what, key, message_id, rcpt in lines:
        message_ids[key].add(message_id)
        if what in ("got", "dropped"):
            taken[key, rcpt] += 1
            dropped += what == "dropped"
    for key, ids in message_ids.items():
        if key not in asked:
            v.wrong("invented: delivered, and never asked for", key)
        elif key not in box.ids:
            v.wrong("invented: delivered, and not in the outbox", key)
        if len(ids) > 1:
            v.wrong("two Message-IDs for one Idempotency-Key", (key, sorted(ids)))
    duplicates = 0
    for id_, (seq, key) in box.messages.items():
        for email, (state, duplicate, rkey) in box.recipients[seq].items():
            n = taken.get((key, email), 0)
            if state == DELIVERED and n == 0 and is_seen(key):
                v.wrong("lost: said to be delivered, and never received", (key, email))
            if n > 1:
                duplicates += n - 1
                flags = [f for t, f in box.of_recipient[rkey] if t == EVENT_OF_STATE[DELIVERED]]
                if not duplicate or not any(f & FLAG_DUPLICATE for f in flags):
                    v.wrong("a duplicate that is not marked", (key, email, n))
    if under_way is not None and duplicates > under_way + dropped:
        v.wrong("more duplicates than attempts without a known end", (duplicates, under_way, dropped))
    v.numbers.update(deliveries=sum(taken.values()), duplicates=duplicates, duplicates_admitted=(under_way or 0) + dropped)


def judge_events(v, box, wanted):
    final = 0
    for id_, (seq, key) in box.messages.items():
        if not box.recipients[seq]:
            v.wrong("half there: a message without recipients", key)
        for email, (state, duplicate, rkey) in box.recipients[seq].items():
            if state not in FINAL:
                v.wrong("without an end", (key, email, state))
                continue
            final += 1
            if state not in wanted(email):
                v.wrong("an end that the receiver gave no cause for", (key, email, state))
            ends = [t for t, _ in box.of_recipient[rkey] if t in EVENT_OF_STATE.values()]
            if ends != [EVENT_OF_STATE[state]]:
                v.wrong("a final state without exactly one event of it", (key, email, state, ends))
        if box.whole[seq][EVENT_ACCEPTED] != 1 or box.whole[seq][EVENT_COMPLETED] != 1:
            v.wrong("not exactly one accepted and one completed event", (key, dict(box.whole[seq])))
    v.numbers.update(final=final)


def judge_hook(v, box, lines):
    got = collections.Counter()
    for what, event in lines:
        got[event] += what == "hook"
        if event not in box.wanted:
            v.wrong("invented: a webhook about an event that is not stored", event)
    for event in box.wanted:
        if event not in box.notified:
            v.wrong("half there: an event without its notification", event)
        elif box.notified[event] == 2 and got[event] == 0:
            v.wrong("lost: a webhook said to be delivered, and never received", event)
        elif box.notified[event] == 3:
            v.wrong("lost: a webhook was given up", event)
    v.numbers.update(webhooks=sum(got.values()), webhooks_waiting=sum(1 for s in box.notified.values() if s <= 1))


def judge(folder, client, sink, hook, under_way, wanted=lambda email: {DELIVERED}, is_seen=lambda key: True):
    v, box = Verdict(), folder if isinstance(folder, Box) else Outbox(folder)
    if box.integrity != "ok":
        v.wrong("the database is damaged", box.integrity)
    if box.balance != 0:
        v.wrong("accepted is not final and pending together", box.balance)
    asked = judge_client(v, box, client)
    judge_sink(v, box, asked, sink, under_way, is_seen)
    judge_events(v, box, wanted)
    judge_hook(v, box, hook)
    return v


def self_test(folder, client, sink, hook, under_way):
    """Each damage must be found under its name. Returns what was not found."""
    ack = next(line for line in client if line[0] == "ack")
    got = next(line for line in sink if line[0] == "got")
    copy = folder + ".damaged"

    def damaged(sql):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        with sqlite3.connect(os.path.join(copy, "outbox.db")) as db:
            db.execute(sql)
        db.close()
        return copy

    twice = [got[1], got[3]]
    cases = [
        ("lost: acknowledged", lambda: judge(damaged(f"DELETE FROM message WHERE external_id = '{ack[1]}'"), client, sink, hook, under_way)),
        ("lost: said to be delivered", lambda: judge(folder, client, [x for x in sink if [x[1], x[3]] != twice], hook, under_way)),
        ("invented: delivered, and never", lambda: judge(folder, client, sink + [["got", "nobody-1", "<x@y>", "r0@example.net"]], hook, under_way)),
        ("invented: in the outbox", lambda: judge(folder, [x for x in client if x[1] != ack[1]], sink, hook, under_way)),
        ("two ids", lambda: judge(folder, client + [["ack", ack[1], "00000000-0000-0000-0000-000000000000"]], sink, hook, under_way)),
        ("two messages", lambda: judge(damaged("UPDATE message SET external_id = (SELECT min(external_id) FROM message)"
                                               " WHERE seq = (SELECT max(seq) FROM message)"), client, sink, hook, under_way)),
        ("two Message-IDs", lambda: judge(folder, client, sink + [[got[0], got[1], "<other@acme.test>", got[3]]], hook, under_way)),
        ("a duplicate that is not", lambda: judge(damaged("UPDATE recipient SET duplicate = 0"), client, sink + [got], hook, under_way + 1)),
        ("more duplicates", lambda: judge(folder, client, sink + [got] * (under_way + sum(x[0] == "dropped" for x in sink) + 1), hook, under_way)),
        ("without an end", lambda: judge(damaged("UPDATE recipient SET state = 1 WHERE key = (SELECT max(key) FROM recipient)"),
                                         client, sink, hook, under_way)),
        ("a final state without", lambda: judge(damaged("DELETE FROM event WHERE seq = (SELECT max(seq) FROM event WHERE recipient IS NOT NULL)"),
                                                client, sink, hook, under_way)),
        ("not exactly one accepted", lambda: judge(damaged("DELETE FROM event WHERE seq = (SELECT max(seq) FROM event WHERE type = 2)"),
                                                   client, sink, hook, under_way)),
        ("lost: a webhook said", lambda: judge(folder, client, sink, [x for x in hook if x[1] != hook[0][1]], under_way)),
        ("half there: an event", lambda: judge(damaged("DELETE FROM notification WHERE seq = (SELECT max(seq) FROM notification)"),
                                               client, sink, hook, under_way)),
        ("accepted is not", lambda: judge(damaged("UPDATE counter SET accepted = accepted + 1"), client, sink, hook, under_way)),
    ]
    missed = [name for name, run in cases if not any(found.startswith(name) for found in run().violations)]
    shutil.rmtree(copy, ignore_errors=True)
    return len(cases), missed

"""RFC 3030: a small message goes by BDAT, in one flight with its envelope, in a session that took one by DATA, and then one by a trial."""

import base64
import email
import re
import threading
import time

import pytest

from peers.hostile import Closed, HostileSMTP
from peers.postfix import Postfix
from peers.process import wait_until
from peers.sink import DROP, Sink
from peers.verify import dkim_verify, signatures

WITHOUT = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 52428800")
WITH = (*WITHOUT, "CHUNKING")
MOST = 64 * 1024
DOTS = ".\n..\n.dot\n\n. \n...\nlast\n.\n"
# all goes by one session, as long as that lives
ONE = {"delivery_threads": 1, "site_connections": 1}

# what some server or other takes for the end of a message, and what comes close
ENDINGS = ["\n.\n", "\r.\r", "\r\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.\r", "\n.\r", "\r.\n", "\r\n.\r\n", "\n\n.\r\n", "\r\r\n.\r\r\n",
           "\r\n..\r\n", "\u2028.\u2028", "\x85.\x85"]  # fmt: skip
EVIL = "MAIL FROM:<evil@far.test>\r\nRCPT TO:<victim@far.test>\r\n"
SMUGGLED = f"BDAT 0 LAST\r\n{EVIL}DATA\r\nSubject: smuggled\r\n\r\nhello\r\n.\r\n{EVIL}BDAT 4 LAST\r\nx\r\n\r\nRSET\r\nQUIT\r\n"


def mail(to, **more):
    return {"from": "Ann <a@acme.test>", "to": to, "subject": "chunks", "text": "t", **more}


def route(peer, tls="none"):
    return f"smtp://{peer.address}?tls={tls}"


def verbs(session):
    return [verb for verb, _ in session.commands]


def count(sink, wanted):
    return sum(verb == wanted for session in sink.sessions for verb in verbs(session))


def numbers(session):
    return [argument for verb, argument in session.commands if verb == "BDAT"]


# ---- a session that knows BDAT --------------------------------------------------------------------------------------


class Gate:
    """A server holds its answer to a message for hold@far.test until others wait behind it: they follow at once, and so in one flight."""

    def __init__(self):
        self._is_reached, self._is_open = threading.Event(), threading.Event()

    def hold(self):
        self._is_reached.set()
        assert self._is_open.wait(30), "nobody opened the gate"

    def behind(self, server, *messages):
        """Gives these while it is closed; returns their ids."""
        held = server.send(**mail("hold@far.test"))["id"]
        assert self._is_reached.wait(20), "nothing came for hold@far.test"
        ids = [server.send(**one)["id"] for one in messages]
        self._is_open.set()
        server.wait_state(held, "delivered")
        return ids


class Warm(Sink):
    """With a gate. `end` answers to other messages."""

    def __init__(self, address, end=None, **more):
        super().__init__(address, **{"extensions": WITH, **more})
        self.gate = Gate()

        def answer(session, message):
            if message.rcpts == ["hold@far.test"]:
                return self.gate.hold()
            return end(session, message) if end else None

        self.on["end"] = answer


BEFORE = {"trial": ["EHLO", "MAIL", "RCPT", "DATA"], "flight": ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "BDAT", "BDAT"]}
WAYS = pytest.mark.parametrize("way", BEFORE)


def in_flight(server, peer, *messages):
    """Has the session take a message by DATA, and one by a trial, and these behind it; returns their ids."""
    server.deliver(**mail("warm@far.test"))
    return peer.gate.behind(server, *messages)


def give(server, sink, way, message):
    """Sends it as the trial, or in one flight; returns it when it is final."""
    if way == "flight":
        (one,) = in_flight(server, sink, message)
    else:
        server.deliver(**mail("warm@far.test"))
        one = server.send(**message)["id"]
    return server.wait_final(one)


def since(sink, way):
    """What the first session heard from the message on that was given so."""
    heard, before = verbs(sink.sessions[0]), BEFORE[way]
    assert heard[: len(before)] == before, heard
    return heard[len(before) :]


def check_chunk(server, message, message_id):
    """It came by BDAT as the API shows it, the signatures before it, and the number was that of its octets."""
    assert message.verb == "BDAT"
    raw = server.api().get(f"/v1/messages/{message_id}/raw").content
    before = message.data[: len(message.data) - len(raw)]
    assert message.data == before + raw and message.wire == message.data
    assert re.fullmatch(rb"(DKIM-Signature:[^\r\n]*\r\n([ \t][^\r\n]*\r\n)*)+", before), before
    said, octets = numbers(message.session), len(message.data)
    assert f"{octets} LAST" in said or ("1" in said and f"{octets - 1} LAST" in said)
    # a wrong number would leave octets that are no command, or take some of the next one
    assert set(verbs(message.session)) <= {"EHLO", "STARTTLS", "MAIL", "RCPT", "BDAT", "DATA", "RSET", "QUIT"}


def common(data):
    """What two sendings of one message have in common: neither time, nor names made up, nor signatures."""
    data = re.sub(rb"(?m)^DKIM-Signature:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", b"", data)
    data = re.sub(rb"(?mi)^((?:date|message-id):)[^\r\n]*", rb"\1", data)
    for boundary in re.findall(rb'boundary="?([^"\s;]+)', data):
        data = data.replace(boundary, b"boundary")
    return data


def text_of(stored):
    return email.message_from_bytes(stored).get_payload(decode=True).decode().replace("\r\n", "\n")


def check_undisturbed(seen):
    for one in seen["recipients"]:
        assert one["attempts"] == 1 and not one.get("possible_duplicate"), one


# ---- when -----------------------------------------------------------------------------------------------------------


def test_C37_a_message_by_BDAT_is_what_it_is_by_DATA(postchute, cleanly):
    sink = cleanly(Warm("11.22.18.1"))
    server = postchute(route=route(sink), **ONE)
    fields = {"text": DOTS + "Grüße\n", "html": f"<pre>\n{DOTS}</pre>\n"}
    ids = [server.deliver(**mail("b@far.test", **fields))["id"] for _ in range(2)]
    ids += sink.gate.behind(server, mail("b@far.test", **fields))
    server.wait_state(ids[2], "delivered")
    dotted, trial, _, flight = sink.ledger
    (session,) = sink.sessions
    assert verbs(session) == BEFORE["trial"] + ["MAIL", "RCPT", "BDAT", "BDAT"] + ["MAIL", "RCPT", "BDAT"] * 2
    assert numbers(session) == ["1", f"{len(trial.data) - 1} LAST", *(f"{len(one.data)} LAST" for one in sink.ledger[2:])]
    check_chunk(server, trial, ids[1])
    check_chunk(server, flight, ids[2])
    assert common(dotted.data) == common(trial.data) == common(flight.data) and b"\r\n..\r\n.dot\r\n\r\n" in flight.data
    assert dotted.wire != dotted.data  # the dots were doubled there
    for one in (trial, flight):
        assert (one.mail_from, one.rcpts, one.mail_parameters) == (dotted.mail_from, dotted.rcpts, dotted.mail_parameters)
    transcripts = [server.attempts(one)[0]["transcript"] for one in ids]
    assert [re.findall(r"(?m)^C: (DATA|BDAT.*)$", one) for one in transcripts] == [
        ["DATA"], ["BDAT 1", f"BDAT {len(trial.data) - 1} LAST"], [f"BDAT {len(flight.data)} LAST"]]  # fmt: skip
    assert transcripts[2].endswith("S: 250 2.0.0 kept as 4\n"), transcripts[2]


def test_C37_all_of_a_flight_and_no_message_of_a_trial_is_sent_before_an_answer(postchute, cleanly):
    seen = []
    peer = cleanly(Peer("11.22.18.3", ends(lambda talk: seen.append(flight(talk, recipients=2)), "250 ok\r\n" * 4, "stay")))
    server = postchute(route=route(peer), **ONE)
    (one,) = in_flight(server, peer, mail(["b@far.test", "c@far.test"], text=DOTS))
    check_undisturbed(server.wait_state(one, "delivered"))
    assert seen[0].endswith(server.api().get(f"/v1/messages/{one}/raw").content)


@pytest.mark.parametrize(
    "extensions",
    [WITHOUT, [one for one in WITH if one != "PIPELINING"], ("PIPELINING", "XCHUNKING", "SIZE 52428800"), ("PIPELINING", "BINARYMIME")],
    ids=["no-chunking", "no-pipelining", "another-keyword", "binarymime-alone"],
)
def test_C37_who_does_not_offer_both_gets_DATA(postchute, cleanly, extensions):
    sink = cleanly(Warm("11.22.18.4", extensions=extensions))
    server = postchute(route=route(sink), **ONE)
    for one in in_flight(server, sink, mail("b@far.test", text=DOTS)):
        server.wait_state(one, "delivered")
    assert [message.verb for message in sink.ledger] == ["DATA"] * 3 and len(sink.sessions) == 1 and count(sink, "BDAT") == 0


def test_C37_the_keyword_counts_as_it_was_said_last(postchute, cleanly, ca):
    """What was said before TLS is forgotten: there CHUNKING was offered, behind it it is not."""

    def before_tls_only(session, argument):
        text = "250-mx\r\n250-PIPELINING\r\n"
        return text + ("250 SIZE 52428800" if session.tls else "250-CHUNKING\r\n250 STARTTLS")

    sink = cleanly(Warm("11.22.18.5", certificate=ca.issue(["11.22.18.5"]), on={"EHLO": before_tls_only}))
    server = postchute(route=route(sink, "encrypt"), **ONE)
    for one in in_flight(server, sink, mail("b@far.test")):
        server.wait_state(one, "delivered")
    (session,) = sink.sessions
    assert [message.verb for message in sink.ledger] == ["DATA"] * 3 and session.tls


def test_C37_what_is_larger_than_64_KiB_goes_by_DATA(postchute, cleanly):
    sink = cleanly(Warm("11.22.18.6"))
    server = postchute(route=route(sink), **ONE)

    def of(octets):
        lines, rest = divmod(octets, 72)
        return mail("b@far.test", text="a" * rest + "\n" + ("b" * 70 + "\n") * lines)

    server.deliver(**of(60_000))
    fits = 60_000 + MOST - len(sink.ledger[0].data)
    for octets in (fits + 1, 1_000_000, fits):
        server.deliver(**of(octets))
    assert [(len(one.data), one.verb) for one in sink.ledger[1:]][::2] == [(MOST + 1, "DATA"), (MOST, "BDAT")]
    assert sink.ledger[2].verb == "DATA" and numbers(sink.sessions[0]) == ["1", f"{MOST - 1} LAST"]
    for one in sink.gate.behind(server, of(fits), of(fits + 1), of(fits)):
        server.wait_state(one, "delivered")
    assert [(len(one.data), one.verb) for one in sink.ledger[5:]] == [(MOST, "BDAT"), (MOST + 1, "DATA"), (MOST, "BDAT")]
    assert numbers(sink.sessions[0]).count("1") == len(sink.sessions) == 1


def test_C37_a_server_that_was_silent_for_a_while_gets_DATA(postchute, cleanly):
    sink = cleanly(Warm("11.22.18.7"))
    server = postchute(route=route(sink), **ONE)
    server.deliver(**mail("warm@far.test"))
    server.deliver(**mail("trial@far.test"))
    last = sink.ledger[-1]
    assert numbers(last.session) == ["1", f"{len(last.data) - 1} LAST"]
    wait_until(lambda: time.monotonic() - last.time > 1.2, "a second of silence")
    # the one behind the gate is late; it has the server speak, and those that follow go in one flight again
    for one in sink.gate.behind(server, *[mail("b@far.test")] * 5):
        server.wait_state(one, "delivered")
    assert [message.verb for message in sink.ledger] == ["DATA", "BDAT", "DATA", *["BDAT"] * 5] and len(sink.sessions) == 1
    for message in sink.ledger:
        assert message.data.startswith(b"DKIM-Signature: ") and message.data.endswith(b"\r\n\r\nt\r\n")


# ---- smuggling ------------------------------------------------------------------------------------------------------


def with_content(place, content):
    """Fields of a message that has it there, the attachment as it is."""
    attachment = {"filename": "a.eml", "content_type": "message/rfc822", "content": base64.b64encode(content.encode()).decode()}
    html = f"<p>\r\n{content}</p>"
    return {"text": {"text": content}, "html": {"html": html}, "attachment": {"text": "t", "attachments": [attachment]}}[place]


def test_T1_C37_what_has_a_line_that_begins_with_DATA_or_BDAT_goes_by_DATA(postchute, cleanly):
    sink = cleanly(Warm("11.22.18.26"))
    server = postchute(route=route(sink), **ONE)
    apart, together = ["Data follow", " bdat 4 last", "  DATA", "\tBdAt", "database"], ["xDATA", "> BDAT", "the data", "da\nta", "D ATA"]
    texts = [text for pair in zip(apart, together) for text in pair]
    ids = in_flight(server, sink, *(mail("b@far.test", text=f"hello\n{text}\nbye\n", subject=f"no {n}") for n, text in enumerate(texts)))
    ids += [server.send(**mail("b@far.test", **with_content(place, "Hello\r\nDATA\r\n")))["id"] for place in ("html", "attachment")]
    for one in ids:
        server.wait_state(one, "delivered")
    assert [message.verb for message in sink.ledger[2:]] == ["DATA", "BDAT"] * 5 + ["DATA"] * 2
    for text, message in zip(texts, sink.ledger[2:]):
        assert text.replace("\n", "\r\n").encode() in message.data, (text, message.data)


def test_T1_C37_a_false_ending_in_a_chunk_ends_nothing(postchute, cleanly):
    sink = cleanly(Warm("11.22.18.8"))
    server = postchute(route=route(sink), **ONE)
    # a line with DATA or BDAT would have it go by DATA
    evil = [SMUGGLED, f"{EVIL}RSET\r\nQUIT\r\n"]
    messages = [mail("b@far.test", subject=f"{place} {ending!a}", **with_content(place, f"before{ending}{one}{ending}after"))
                for place in ("text", "html", "attachment") for ending in ENDINGS for one in evil]  # fmt: skip
    ids = in_flight(server, sink, *messages)
    for one in ids:
        check_undisturbed(server.wait_state(one, "delivered"))
    tested = sink.ledger[2:]
    assert len(tested) == len(ids) == 6 * len(ENDINGS)
    for one, message in zip(ids, tested):
        assert message.mail_from == "a@acme.test" and message.rcpts == ["b@far.test"]
        assert re.fullmatch(rb"(?:[^\r\n\0]{0,999}\r\n)*", message.data), message.data
        assert message.data.endswith(server.api().get(f"/v1/messages/{one}/raw").content)
        assert message.verb == "DATA" or not re.search(rb"(?mi)^[ \t]*(DATA|BDAT)", message.data), message.data
    assert sum(message.verb == "BDAT" for message in tested) >= 3 * len(ENDINGS)
    assert sum(message.verb == "DATA" for message in tested) >= 2 * len(ENDINGS)
    (session,) = sink.sessions
    assert session.faults == []
    assert set(verbs(session)) <= {"EHLO", "MAIL", "RCPT", "BDAT", "DATA", "QUIT"} and verbs(session).count("MAIL") == session.messages
    assert not any("evil" in argument or "victim" in argument for _, argument in session.commands)


def octets(talk, size):
    while len(talk._buffer) < size:
        talk._fill()
    data, talk._buffer = talk._buffer[:size], talk._buffer[size:]
    return data


class ReadsOn(HostileSMTP):
    """Reads as commands what follows a BDAT that it does not take, and answers a group of them when it has read all of it (RFC 2920 3.2).
    With `knows`, that is only one that follows the refusal of all recipients (to bad@)."""

    def __init__(self, address, knows=False):
        super().__init__(address, self.serve)
        self.knows, self.taken, self.gate = knows, [], Gate()

    def serve(self, talk):
        talk.hello("PIPELINING", "CHUNKING")
        replies, sender, to, data = "", None, [], b""
        while True:
            if b"\r\n" not in talk._buffer or replies.startswith("354"):
                try:
                    talk.send(replies)
                except Closed:
                    pass  # who is gone may have sent more
                replies = ""
            line = talk.line().strip()
            verb, is_end = line.upper()[:4], False
            if verb == "MAIL":
                sender = line.split(" SIZE")[0]
            elif verb == "RSET":
                sender, to = None, []
            elif verb == "RCPT" and "<bad@" in line:
                replies += "550 5.1.1 unknown\r\n"
                continue
            elif verb == "RCPT" and sender:
                to.append(line)
            elif verb == "DATA" and to:
                talk.send(replies + "354 go\r\n")
                replies, data, is_end = "", talk.expect_data(), True
            elif verb == "BDAT" and self.knows and to:
                data += octets(talk, int(line.split(" ")[1]))
                is_end = line.upper().endswith("LAST")
            elif verb != "QUIT":
                replies += "500 what?\r\n"
                continue
            if is_end:
                self.taken.append((sender, to, data))
                if "<hold@" in to[0]:
                    self.gate.hold()
                sender, to, data = None, [], b""
            replies += "250 ok\r\n"

    def senders(self):
        return [(sender, *to) for sender, to, _ in self.taken]


FROM, TO = "MAIL FROM:<a@acme.test>", "RCPT TO:<{}@far.test>"


@pytest.mark.parametrize("verb", ["DATA", "NOOP"])
@pytest.mark.parametrize("place", ["text", "html", "attachment"])
def test_T1_C37_who_does_not_know_BDAT_takes_no_message_for_commands(postchute, cleanly, place, verb):
    """What stands in a message is nobody's command, also where it is read as such: no second message comes of it."""
    peer = cleanly(ReadsOn("11.22.18.25"))
    server = postchute(route=route(peer), retry_after="60s", **ONE)
    server.deliver(**mail("warm@far.test"))
    content = f"RSET\r\n{EVIL}{verb}\r\nSubject: smuggled\r\n\r\nhello\r\n.\r\nQUIT\r\n"
    check_undisturbed(server.deliver(**mail("b@far.test", **with_content(place, content))))
    assert peer.senders() == [(FROM, TO.format("warm")), (FROM, TO.format("b"))] and b"\r\nhello\r\n" in peer.taken[1][2]
    lines = [line for talk in peer.sessions for line in talk.lines]
    # what has a line with DATA is not tried
    assert lines.count("BDAT 1") == (verb != "DATA") and not any("evil" in line for line in lines), lines


@pytest.mark.parametrize("verb", ["DATA", " bdat 9 last", "NOOP"])
def test_T1_C37_who_refuses_the_recipients_and_reads_the_chunk_takes_no_message(postchute, cleanly, verb):
    """What could end in a message there goes by DATA; of the other, read as commands, none comes."""
    peer = cleanly(ReadsOn("11.22.18.27", knows=True))
    server = postchute(route=route(peer), retry_after="60s", **ONE)
    (one,) = in_flight(server, peer, mail("bad@far.test", text=f"RSET\r\n{EVIL}{verb}\r\nS: x\r\n\r\nhello\r\n.\r\nQUIT\r\n"))
    seen = server.wait_final(one)
    check_undisturbed(seen)
    assert (seen["recipients"][0]["state"], seen["recipients"][0]["refusal"]["code"]) == ("bounced", 550)
    server.deliver(**mail("next@far.test"))
    assert peer.senders() == [(FROM, TO.format(name)) for name in ("warm", "hold", "next")]
    # that it did read one shows what the others are kept from
    assert any("evil" in line for line in peer.sessions[0].lines) == (verb == "NOOP"), peer.sessions[0].lines


# ---- refusals -------------------------------------------------------------------------------------------------------


def refuse(*locals_):
    return lambda session, argument: next((reply for local, reply in locals_ if f"<{local}@" in argument), None)


def once(reply, where):
    """Answers so to the first for which `where` is true."""
    left = [reply]
    return lambda session, argument: left.pop() if left and where(session, argument) else None


@WAYS
def test_C37_one_refused_recipient_does_not_hinder_the_other(postchute, cleanly, way):
    sink = cleanly(Warm("11.22.18.9", on={"RCPT": refuse(("bad", "550 5.1.1 unknown"))}))
    server = postchute(route=route(sink), **ONE)
    seen = give(server, sink, way, mail(["bad@far.test", "good@far.test"]))
    bad, good = seen["recipients"]
    assert (bad["state"], bad["attempts"], bad["refusal"]["code"], bad["refusal"]["stage"]) == ("bounced", 1, 550, "rcpt")
    assert (good["state"], good["attempts"], good["smtp"]["code"]) == ("delivered", 1, 250)
    assert sink.ledger[-1].rcpts == ["good@far.test"]
    check_chunk(server, sink.ledger[-1], seen["id"])
    assert len(server.attempts(seen["id"])) == 1  # one transaction for both
    assert since(sink, way) == ["MAIL", "RCPT", "RCPT", "BDAT"] + ["BDAT"] * (way == "trial")


@pytest.mark.parametrize("way, reply", [("trial", None), ("trial", "250 2.0.0 1 octet"), ("flight", None)], ids=["503", "250", "flight"])
def test_C37_a_message_that_is_refused_for_all_leaves_the_session_usable(postchute, cleanly, way, reply):
    to_bdat = once(reply, lambda session, argument: session.messages == 1)
    sink = cleanly(Warm("11.22.18.10", on={"RCPT": refuse(("bad", "550 5.1.1 unknown"), ("worse", "553 5.1.3 never")), "BDAT": to_bdat}))
    server = postchute(route=route(sink), **ONE)
    seen = give(server, sink, way, mail(["bad@far.test", "worse@far.test"]))
    assert [(one["state"], one["refusal"]["code"], one["refusal"]["stage"]) for one in seen["recipients"]] == [
        ("bounced", 550, "rcpt"), ("bounced", 553, "rcpt")]  # fmt: skip
    check_undisturbed(server.deliver(**mail("good@far.test")))
    heard, message = since(sink, way), sink.ledger[-1]
    assert heard[:5] == ["MAIL", "RCPT", "RCPT", "BDAT", "RSET"] and heard[5:8] == ["MAIL", "RCPT", message.verb]
    assert message.rcpts == ["good@far.test"] and len(sink.sessions) == 1
    # what was for nobody was no message: the next one is a trial again
    assert numbers(message.session).count("1") == (2 if way == "trial" else 1)
    assert "BDAT was refused" not in server.log()


@WAYS
def test_C37_a_refused_sender_bounces_and_leaves_the_session_usable(postchute, cleanly, way):
    before = {"trial": 1, "flight": 2}[way]
    sink = cleanly(Warm("11.22.18.11", on={"MAIL": once("550 5.7.1 not from you", lambda session, _: session.messages == before)}))
    server = postchute(route=route(sink), **ONE)
    seen = give(server, sink, way, mail(["a@far.test", "b@far.test"]))
    assert [(one["state"], one["refusal"]["code"], one["refusal"]["stage"]) for one in seen["recipients"]] == [("bounced", 550, "mail")] * 2
    check_undisturbed(server.deliver(**mail("next@far.test")))
    assert since(sink, way)[:7] == ["MAIL", "RCPT", "RCPT", "BDAT", "RSET", "MAIL", "RCPT"]
    assert [message.rcpts[0] for message in sink.ledger][before:] == ["next@far.test"] and len(sink.sessions) == 1
    assert "BDAT was refused" not in server.log()


@pytest.mark.parametrize(
    "way, reply",
    [*(("flight", reply) for reply in ("554 no", "500 5.6.0 no", "503 5.7.0 no")), ("trial", "500 5.6.0 no")],
)
def test_C37_a_refused_message_bounces(postchute, cleanly, way, reply):
    sink = cleanly(Warm("11.22.18.12", end=once(reply, lambda _, message: "b@far.test" in message.rcpts)))
    server = postchute(route=route(sink), **ONE)
    seen = give(server, sink, way, mail(["b@far.test", "c@far.test"]))
    check_undisturbed(seen)
    for one in seen["recipients"]:
        assert (one["state"], one["refusal"]["code"], one["refusal"]["stage"]) == ("bounced", int(reply[:3]), "end"), one
    server.deliver(**mail("next@far.test"))
    chunks = ["BDAT"] * (2 if way == "trial" else 1)
    assert since(sink, way)[: 5 + len(chunks)] == ["MAIL", "RCPT", "RCPT", *chunks, "RSET", "MAIL"] and len(sink.sessions) == 1


@pytest.mark.parametrize("reply", ["451 4.3.0 not now", "421 4.3.2 going down", "450 later"])
def test_C37_a_message_that_is_put_off_comes_again(postchute, cleanly, reply):
    sink = cleanly(Warm("11.22.18.13", end=once(reply, lambda _, message: "b@far.test" in message.rcpts)))
    server = postchute(route=route(sink), retry_after="200ms", **ONE)
    (one,) = in_flight(server, sink, mail("b@far.test"))
    seen = server.wait_state(one, "delivered")
    (recipient,) = seen["recipients"]
    assert recipient["attempts"] == 2 and not recipient.get("possible_duplicate"), recipient
    assert [message.reply[:3] for message in sink.ledger[2:]] == [reply[:3], "250"] and sink.ledger[2].verb == "BDAT"
    (deferred,) = [event for event in server.events(seen["id"]) if event["type"] == "recipient.deferred"]
    assert f'"code": {reply[:3]}' in str(deferred).replace("'", '"')
    raw = server.api().get(f"/v1/messages/{seen['id']}/raw").content
    assert all(message.data.endswith(raw) for message in sink.ledger[2:])


def test_C37_a_trial_that_is_put_off_puts_off_the_message(postchute, cleanly):
    sink = cleanly(Warm("11.22.18.28", on={"BDAT": once("451 4.3.0 not now", lambda session, argument: True)}))
    server = postchute(route=route(sink), retry_after="200ms", **ONE)
    seen = give(server, sink, "trial", mail("b@far.test"))
    (recipient,) = seen["recipients"]
    assert (recipient["state"], recipient["attempts"]) == ("delivered", 2) and not recipient.get("possible_duplicate"), recipient
    (deferred,) = [event for event in server.events(seen["id"]) if event["type"] == "recipient.deferred"]
    assert "not now" in str(deferred) and "'data'" in str(deferred), deferred
    # it might be put off for ever
    assert since(sink, "trial") == ["MAIL", "RCPT", "BDAT", "RSET", "MAIL", "RCPT", "DATA"]
    assert sink.ledger[1].data.endswith(server.api().get(f"/v1/messages/{seen['id']}/raw").content)


def most_two():
    """Answers for a sink: 452 to the third recipient of a transaction."""
    def begin(session, argument):
        session.taken = 0

    def take(session, argument):
        session.taken += 1
        return "452 4.5.3 too many recipients" if session.taken > 2 else None

    return {"MAIL": begin, "RCPT": take}


def test_C37_too_many_recipients_go_on_in_chunks_of_their_own(postchute, cleanly):
    sink = cleanly(Sink("11.22.18.23", extensions=WITH, on=most_two()))
    server = postchute(route=route(sink), retry_after="60s", **ONE)
    to = [f"r{n}@far.test" for n in range(7)]
    seen = server.deliver(**mail(to))
    check_undisturbed(seen)
    assert sorted(sum((message.rcpts for message in sink.ledger), [])) == to and len(sink.sessions) == 1
    assert [(len(message.rcpts), message.verb) for message in sink.ledger] == [(2, "DATA"), (2, "BDAT"), (2, "BDAT"), (1, "BDAT")]
    raw = server.api().get(f"/v1/messages/{seen['id']}/raw").content
    assert all(message.data.endswith(raw) for message in sink.ledger) and numbers(sink.sessions[0]).count("1") == 1


@pytest.mark.parametrize("extensions", [WITH, WITHOUT], ids=["chunking", "no-chunking"])
def test_C37_who_takes_one_message_a_session_costs_no_attempt(postchute, cleanly, extensions):
    """It closes behind each 250, when the rest of the recipients is under way: they had not been read, and go by another session."""
    sink = cleanly(Sink("11.22.18.24", extensions=extensions, on=most_two()))
    sink.one_message = True
    server = postchute(route=route(sink), retry_after="60s", **ONE)
    to = [f"r{n}@far.test" for n in range(4)]
    check_undisturbed(server.deliver(**mail(to)))
    for one in [server.send(**mail(f"r{n}@far.test"))["id"] for n in range(4, 9)]:
        check_undisturbed(server.wait_state(one, "delivered"))
    assert sorted(sum((message.rcpts for message in sink.ledger), [])) == [f"r{n}@far.test" for n in range(9)]


# ---- servers that offer it and do not know it -----------------------------------------------------------------------

UNKNOWN = ["502 5.5.1 unknown", "500 what?", "501 5.5.4 what?", "504 not here", "503 5.5.1 bad sequence", "502 5.3.3 no"]


def check_remembered(server, sink, bdats):
    """The second session, which took a message by DATA, is given no trial either."""
    for name in ("next", "later"):
        check_undisturbed(server.deliver(**mail(f"{name}@far.test")))
    first, second = sink.sessions
    assert [verb for verb in verbs(second) if verb != "RCPT"] == ["EHLO"] + ["MAIL", "DATA"] * 3 and len(numbers(first)) == bdats
    assert len(re.findall("BDAT was refused, or a session lost with it: DATA for an hour", server.log())) == 1


@pytest.mark.parametrize("reply", ["502 5.5.1 unknown", "500 what?", "503 5.5.1 bad sequence", "554 5.7.1 no"])
def test_C37_who_refuses_the_trial_gets_DATA_and_nobody_is_the_worse(postchute, cleanly, reply):
    sink = cleanly(Warm("11.22.18.14", on={"BDAT": reply}))
    sink.unknown = {"BDAT"}
    # a retry would come too late
    server = postchute(route=route(sink), retry_after="60s", **ONE)
    seen = give(server, sink, "trial", mail(["b@far.test", "c@far.test"]))
    check_undisturbed(seen)
    assert since(sink, "trial") == ["MAIL", "RCPT", "RCPT", "BDAT"]
    _, message = sink.ledger
    assert message.verb == "DATA" and message.rcpts == ["b@far.test", "c@far.test"]
    assert message.data.endswith(server.api().get(f"/v1/messages/{seen['id']}/raw").content)
    assert [event["type"] for event in server.events(seen["id"])] == [
        "message.accepted", "recipient.delivered", "recipient.delivered", "message.completed"]  # fmt: skip
    (attempt,) = server.attempts(seen["id"])
    assert "C: DATA" in attempt["transcript"] and len(attempt["recipients"]) == 2
    check_remembered(server, sink, bdats=1)


@pytest.mark.parametrize("way, reply", [*(("flight", reply) for reply in UNKNOWN), ("trial", UNKNOWN[1])])
def test_C37_who_does_not_know_the_chunk_is_left_at_once_and_gets_DATA(postchute, cleanly, way, reply):
    sink = cleanly(Warm("11.22.18.29", end=once(reply, lambda _, message: "b@far.test" in message.rcpts)))
    server = postchute(route=route(sink), retry_after="60s", **ONE)
    seen = give(server, sink, way, mail(["b@far.test", "c@far.test"]))
    check_undisturbed(seen)
    chunks = ["BDAT"] * (2 if way == "trial" else 1)
    assert since(sink, way) == ["MAIL", "RCPT", "RCPT", *chunks]
    refused, message = sink.ledger[-2:]
    assert (refused.verb, refused.reply, message.verb) == ("BDAT", reply, "DATA") and refused.rcpts == message.rcpts
    assert [event["type"] for event in server.events(seen["id"])].count("recipient.delivered") == len(server.events(seen["id"])) - 2 == 2
    check_remembered(server, sink, bdats=len(numbers(sink.sessions[0])))


def test_C37_two_loops_learn_each_for_itself(postchute, cleanly):
    sink = cleanly(Sink("11.22.18.30", extensions=WITH, on={"BDAT": "502 5.5.1 unknown"}))
    sink.unknown = {"BDAT"}
    server = postchute(route=route(sink), retry_after="60s", delivery_threads=2, site_connections=4)
    for one in [server.send(**mail(f"b{n}@far.test"))["id"] for n in range(40)]:
        check_undisturbed(server.wait_state(one, "delivered"))
    assert sorted(message.rcpts[0] for message in sink.ledger) == sorted(f"b{n}@far.test" for n in range(40))
    assert {message.verb for message in sink.ledger} == {"DATA"}
    asked = [verbs(session) for session in sink.sessions if "BDAT" in verbs(session)]
    assert 1 <= len(asked) <= 4 and all(one[-1] == "BDAT" for one in asked), asked


def test_C37_who_was_refused_before_an_unknown_BDAT_is_refused_once(postchute, cleanly):
    sink = cleanly(Warm("11.22.18.15", on={"BDAT": "502 5.5.1 unknown", "RCPT": refuse(("bad", "550 5.1.1 unknown"))}))
    server = postchute(route=route(sink), retry_after="60s", **ONE)
    seen = give(server, sink, "trial", mail(["bad@far.test", "good@far.test"]))
    check_undisturbed(seen)
    bad, good = seen["recipients"]
    assert (bad["state"], bad["refusal"]["code"], bad["refusal"]["stage"], good["state"]) == ("bounced", 550, "rcpt", "delivered")
    assert [(message.verb, message.rcpts) for message in sink.ledger[1:]] == [("DATA", ["good@far.test"])]
    asked = [argument for session in sink.sessions for verb, argument in session.commands if verb == "RCPT"]
    assert sum("<bad@" in one for one in asked) == 1 and sum("<good@" in one for one in asked) == 2


def test_C37_one_server_of_two_that_does_not_know_BDAT_is_remembered_alone(postchute, cleanly):
    old = cleanly(Sink("11.22.18.16", extensions=WITH, on={"BDAT": "502 5.5.1 unknown"}))
    new = cleanly(Sink("11.22.18.17", extensions=WITH))
    server = postchute(start=False, route="sandbox", **ONE)
    server.declared["routes"] = [{"name": "old", "smarthosts": [route(old)]}, {"name": "new", "smarthosts": [route(new)]}]
    server.start()
    for name in ("old", "old", "new", "new", "old"):
        server.deliver(**mail("b@far.test", route=name))
    assert [message.verb for message in old.ledger] == ["DATA"] * 3 and [message.verb for message in new.ledger] == ["DATA", "BDAT"]


# ---- lost connections -----------------------------------------------------------------------------------------------


def envelope(talk, recipients=1):
    talk.expect("MAIL FROM:")
    for _ in range(recipients):
        talk.expect("RCPT TO:")


def flight(talk, recipients=1):
    """Reads all of a flight, and says nothing; returns the message."""
    envelope(talk, recipients)
    size, last = talk.expect("BDAT ").split(" ")[1:]
    assert last == "LAST"
    data = octets(talk, int(size))
    assert talk._buffer == b""
    return data


def trial(talk):
    """Up to BDAT 1 and its octet; the rest of the message waits for an answer."""
    envelope(talk)
    assert talk.expect("BDAT") == "BDAT 1" and len(octets(talk, 1)) == 1 and talk._buffer == b""
    talk.send("250 2.1.0 sender\r\n250 2.1.5 recipient\r\n")
    talk.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        talk.socket.recv(1)
    talk.socket.settimeout(60)


def chunk(talk):
    talk.send("250 2.0.0 an octet\r\n")
    size, last = talk.expect("BDAT ").split(" ")[1:]
    assert last == "LAST" and octets(talk, int(size)) and talk._buffer == b""


def takes_it(talk):
    """Answers MAIL and RCPT as they come, and a message by DATA or BDAT."""
    talk.hello("PIPELINING", "CHUNKING")
    while line := talk.line():
        if line == "DATA":
            talk.send("354 go\r\n")
            talk.expect_data()
        elif line.startswith("BDAT "):
            octets(talk, int(line.split(" ")[1]))
        talk.send("250 2.0.0 ok\r\n")


class Peer(HostileSMTP):
    """In its first session takes a message by DATA, and one by a trial, before it goes by the script; then it takes everything."""

    def __init__(self, address, script, with_trial=True):
        super().__init__(address, [self.first, takes_it])
        self.script, self.with_trial, self.gate = script, with_trial, Gate()

    def first(self, talk):
        talk.hello("PIPELINING", "CHUNKING")
        envelope(talk)
        talk.expect("DATA")
        talk.send("250 sender\r\n250 recipient\r\n354 go\r\n")
        talk.expect_data()
        talk.send("250 kept\r\n")
        if self.with_trial:
            trial(talk)
            chunk(talk)
            self.gate.hold()
            talk.send("250 2.0.0 kept\r\n")
        self.script(talk)


RECIPIENTS = "250 2.1.0 sender\r\n250 2.1.5 recipient\r\n"


def chunk_too(talk):
    trial(talk)
    chunk(talk)


def until_MAIL(talk):
    talk.expect("MAIL FROM:")


def ends(reads, says, then):
    """A script that reads so far, says this, and closes, resets or stays."""

    def script(talk):
        reads(talk)
        talk.send(says)
        {"close": talk.drop, "reset": talk.reset, "stay": talk.until_closed}[then]()

    return script


# what is read, what is said, how it ends; is the message sent by then?
LOST = [
    (flight, "", "close", True), (until_MAIL, "", "reset", True), (flight, "", "stay", True),
    (flight, "250 2.1", "close", True), (flight, RECIPIENTS, "stay", True),
    (trial, "", "close", False), (trial, "", "stay", False), (trial, "421 4.3.2 going\r\n", "close", False),
    (chunk_too, "", "close", True), (chunk_too, "", "stay", True),
]  # fmt: skip


@pytest.mark.parametrize("reads, says, then, is_sent", LOST)
def test_C18_C37_behind_a_lost_flight_or_trial_comes_DATA(postchute, cleanly, reads, says, then, is_sent):
    """Whether the message was taken is unknown where it was sent."""
    way = "trial" if reads in (trial, chunk_too) else "flight"
    peer = cleanly(Peer("11.22.18.18", ends(reads, says, then), with_trial=way == "flight"))
    patience = {f"smtp_{stage}_timeout": "800ms" for stage in ("mail", "data", "end")}
    server = postchute(route=route(peer), retry_after="200ms", **patience, **ONE)
    seen = give(server, peer, way, mail("b@far.test"))
    (recipient,) = seen["recipients"]
    assert (recipient["state"], recipient["attempts"], bool(recipient.get("possible_duplicate"))) == ("delivered", 2, is_sent)
    deferred, delivered = [event for event in server.events(seen["id"]) if event["type"].startswith("recipient.")]
    assert (deferred["type"], delivered["type"]) == ("recipient.deferred", "recipient.delivered")
    assert bool(delivered["data"].get("possible_duplicate")) == is_sent
    assert "C: BDAT" in server.attempts(seen["id"])[0]["transcript"]
    for name in ("next", "later"):
        server.deliver(**mail(f"{name}@far.test"))
    assert [line.split(" ")[0] for line in peer.sessions[1].lines] == ["EHLO"] + ["MAIL", "RCPT", "DATA"] * 3 and len(peer.sessions) == 2


def test_C37_a_server_may_take_its_time_for_each_answer_in_a_flight(postchute, cleanly):
    def is_slow(talk):
        flight(talk)
        for text in ("250 sender\r\n", "250 recipient\r\n250 kept\r\n"):
            time.sleep(1.1)
            talk.send(text)
        talk.until_closed()

    peer = cleanly(Peer("11.22.18.31", is_slow))
    server = postchute(route=route(peer), smtp_mail_timeout="800ms", smtp_rcpt_timeout="800ms", **ONE)
    check_undisturbed(give(server, peer, "flight", mail("b@far.test")))
    assert len(peer.sessions) == 1


@pytest.mark.parametrize("more", ["250 more", "421 4.4.2 bye"])
def test_C37_a_reply_too_many_behind_a_flight_leaves_it_unknown_which_was_which(postchute, cleanly, more):
    says = RECIPIENTS + f"250 2.0.0 kept\r\n{more}\r\n"
    peer = cleanly(Peer("11.22.18.32", ends(flight, says, "stay")))
    server = postchute(route=route(peer), retry_after="200ms", **ONE)
    (recipient,) = give(server, peer, "flight", mail("b@far.test"))["recipients"]
    is_said_again = not more.startswith("421")  # which says that it goes
    assert (recipient["state"], recipient["attempts"]) == ("delivered", 1 + is_said_again), recipient
    assert bool(recipient.get("possible_duplicate")) == is_said_again and len(peer.sessions) == 1 + is_said_again


@WAYS
def test_C18_C37_a_lost_answer_to_the_chunk_makes_one_more_copy_at_most(postchute, cleanly, way):
    sink = cleanly(Warm("11.22.18.19", end=once(DROP, lambda _, message: "b@far.test" in message.rcpts)))
    server = postchute(route=route(sink), retry_after="200ms", **ONE)
    seen = give(server, sink, way, mail("b@far.test"))
    copies = [one for one in sink.ledger if one.rcpts == ["b@far.test"]]
    assert [one.verb for one in copies] == ["BDAT", "DATA"]
    assert {email.message_from_bytes(one.data)["Message-ID"] for one in copies} == {seen["message_id"]}
    (recipient,) = seen["recipients"]
    assert (recipient["state"], recipient["attempts"], recipient["possible_duplicate"]) == ("delivered", 2, True)


def test_C18_C37_who_was_refused_in_a_lost_flight_stays_refused(postchute, cleanly):
    def two(talk):
        flight(talk, recipients=2)

    says = "250 2.1.0 sender\r\n550 5.1.1 unknown\r\n250 2.1.5 recipient\r\n"
    peer = cleanly(Peer("11.22.18.20", ends(two, says, "close")))
    server = postchute(route=route(peer), retry_after="200ms", **ONE)
    bad, good = give(server, peer, "flight", mail(["bad@far.test", "good@far.test"]))["recipients"]
    assert (bad["state"], bad["attempts"], bad["refusal"]["code"]) == ("bounced", 1, 550) and not bad.get("possible_duplicate")
    assert (good["state"], good["attempts"], good["possible_duplicate"]) == ("delivered", 2, True)
    assert [line for line in peer.sessions[1].lines if line.startswith("RCPT")] == ["RCPT TO:<good@far.test>"]


BYE = "421 4.4.2 idle for too long\r\n"


@pytest.mark.parametrize(
    "way, says, then", [("flight", BYE, "close"), ("flight", BYE, "stay"), ("trial", BYE, "close"), ("trial", "", "close")]
)
def test_C37_a_session_that_ends_at_MAIL_costs_no_attempt(postchute, cleanly, way, says, then):
    """By 421; or without a word, where no message is under way, and then nobody knows whether it was for BDAT."""
    peer = cleanly(Peer("11.22.18.21", ends(until_MAIL, says, then), with_trial=way == "flight"))
    server = postchute(route=route(peer), retry_after="60s", **ONE)
    seen = give(server, peer, way, mail("b@far.test"))
    assert seen["state"] == "delivered"
    check_undisturbed(seen)
    server.deliver(**mail("next@far.test"))
    after = BEFORE["flight"] if says else BEFORE["trial"] + BEFORE["trial"][1:]
    assert [line.split(" ")[0] for line in peer.sessions[1].lines] == after and len(peer.sessions) == 2


# ---- a real server, and TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postfix(ca):
    with Postfix("11.22.18.40", "mx.chunks.test", ["chunks.test"], ca.issue(["mx.chunks.test", "11.22.18.40"])) as one:
        yield one


def burst(server, messages):
    """Sends all of them one after the other; returns them when they are final, and how many went in one flight."""
    ids = [server.send(**one)["id"] for one in messages]
    seen = [server.wait_final(one) for one in ids]
    asked = [re.findall(r"(?m)^C: (DATA|BDAT \d+(?: LAST)?)$", server.attempts(one)[0]["transcript"]) for one in ids]
    assert asked[0] == ["DATA"], asked
    return seen, sum(len(one) == 1 and one[0].endswith(" LAST") for one in asked)


@pytest.mark.parametrize("tls", ["none", "verify"])
def test_C37_a_real_Postfix_takes_chunks(postfix, postchute, ca, tls):
    server = postchute(route=f"smtp://11.22.18.40?tls={tls}" + (f"&ca={ca.directory}/ca.pem" if tls == "verify" else ""), **ONE)
    to = [f"{name}-{tls}@chunks.test" for name in ("one", "two", "three")]
    text = DOTS + "Grüße aus Köln, 8 bit: äöüß €\n"
    all_seen, flights = burst(server, [mail([*to, f"nobody-{tls}@chunks.test"], text=text)] * 8)
    assert flights > 0, [server.attempts(one["id"]) for one in all_seen[:2]]
    raws = []
    for seen in all_seen:
        assert [one["state"] for one in seen["recipients"]] == ["delivered"] * 3 + ["bounced"]
        check_undisturbed(seen)
        (attempt,) = server.attempts(seen["id"])
        assert bool(attempt.get("tls")) == (tls == "verify")
        raws.append(server.api().get(f"/v1/messages/{seen['id']}/raw").content.replace(b"\r\n", b"\n"))
    records = {one["name"]: one["value"] for one in server.api().get("/v1/domains/acme.test").json()["records"] if one["purpose"] == "dkim"}
    for recipient in to:
        mails = postfix.wait_mail(recipient, 8)
        assert sorted(sum(stored.endswith(raw) for stored in mails) for raw in raws) == [1] * 8 and len(mails) == 8
        for stored in mails:
            assert text_of(stored) == text and (b"using TLSv1.3" in stored) == (tls == "verify")
            sent = stored[stored.index(b"DKIM-Signature:") :]
            assert len(dkim_verify(sent, records)) == len(signatures(stored)) == 1
    assert postfix.mails(f"nobody-{tls}@chunks.test") == []


def test_C37_a_chunk_may_have_8_bits(postfix, postchute):
    """A name that needs SMTPUTF8 stands in the header as it is."""
    server = postchute(route="smtp://11.22.18.40?tls=none", **ONE)
    all_seen, flights = burst(server, [mail(["jörg@chunks.test", "jürg@chunks.test"], text=DOTS)] * 6)
    assert flights > 0, [server.attempts(one["id"]) for one in all_seen[:2]]
    for seen in all_seen:
        (attempt,) = server.attempts(seen["id"])
        assert re.search(r"^C: MAIL FROM:<a@acme\.test> .*BODY=8BITMIME SMTPUTF8$", attempt["transcript"], re.M), attempt["transcript"]
        raw = server.api().get(f"/v1/messages/{seen['id']}/raw").content.replace(b"\r\n", b"\n")
        wait_until(lambda raw=raw: sum(one.endswith(raw) for one in postfix.mails()) == 2, "two copies")
        assert "\nTo: jörg@chunks.test, jürg@chunks.test\n".encode() in raw


def test_C37_a_Postfix_that_knows_no_chunks_gets_DATA(postchute):
    settings = {"smtpd_discard_ehlo_keywords": "chunking"}
    with Postfix("11.22.18.41", "mx.dots.test", ["dots.test"], settings=settings) as old:
        server = postchute(route="smtp://11.22.18.41?tls=none", **ONE)
        ids = [server.deliver(**mail("b@dots.test", text=DOTS))["id"] for _ in range(3)]
        assert [text_of(stored) for stored in old.wait_mail("b@dots.test", 3)] == [DOTS] * 3
        transcripts = [server.attempts(one)[0]["transcript"] for one in ids]
        assert all("C: DATA" in one and "BDAT" not in one for one in transcripts) and not any("EHLO" in one for one in transcripts[1:])


def test_C37_many_messages_arrive_at_a_Postfix_once_each(postfix, postchute):
    """One session is used again and again: what follows a chunk is a command, and no octet of it is lost."""
    server = postchute(route="smtp://11.22.18.40?tls=none", **ONE)
    texts = {f"{'many' if n % 7 else 'nobody'}-{n}@chunks.test": f".{n}\n" + "x" * (37 * n % 900) + "\n." * (n % 5) + "\n"
             for n in range(1, 61)}  # fmt: skip
    all_seen, flights = burst(server, [mail(to, text=text) for to, text in texts.items()])
    assert flights > 30, ("hardly any went in one flight", [server.attempts(one["id"]) for one in all_seen[:2]])
    for (to, text), seen in zip(texts.items(), all_seen):
        check_undisturbed(seen)
        assert seen["state"] == ("bounced" if to.startswith("nobody") else "delivered")
        if seen["state"] == "delivered":
            (stored,) = postfix.wait_mail(to)
            assert stored.endswith(server.api().get(f"/v1/messages/{seen['id']}/raw").content.replace(b"\r\n", b"\n"))
            assert text_of(stored) == text
        else:
            assert postfix.mails(to) == []


@pytest.mark.parametrize("implicit", [False, True])
def test_C37_chunks_go_over_TLS(postchute, cleanly, ca, implicit):
    name = "11.22.18.22"
    sink = cleanly(Warm(name, certificate=ca.issue([name]), port=465 if implicit else 25, implicit_tls=implicit))
    server = postchute(route=f"{'smtps' if implicit else 'smtp'}://{name}?tls=verify&ca={ca.directory}/ca.pem", **ONE)
    # more than one TLS record
    text = DOTS + "".join(f"{n} {'y' * 60}\n" for n in range(700))
    (one,) = in_flight(server, sink, mail("b@far.test", text=text))
    server.wait_state(one, "delivered")
    check_chunk(server, sink.ledger[2], one)
    session = sink.ledger[2].session
    assert session.tls["version"] == "TLSv1.3" and 3 * 16384 > len(sink.ledger[2].data) > 2 * 16384
    (attempt,) = server.attempts(one)
    assert attempt["tls"]["verified"] and "C: BDAT" in attempt["transcript"]
    assert verbs(session) == ([] if implicit else ["EHLO", "STARTTLS"]) + BEFORE["flight"] + ["MAIL", "RCPT", "BDAT"]

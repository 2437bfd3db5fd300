"""RFC 3030: a small message goes by BDAT, in one flight with its envelope, where PIPELINING and CHUNKING are offered; else by DATA."""

import base64
import email
import re
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

# what some server or other takes for the end of a message, and what comes close
ENDINGS = ["\n.\n", "\r.\r", "\r\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.\r", "\n.\r", "\r.\n", "\r\n.\r\n", "\n\n.\r\n", "\r\r\n.\r\r\n",
           "\r\n..\r\n", "\u2028.\u2028", "\x85.\x85"]  # fmt: skip
SMUGGLED = (
    "BDAT 0 LAST\r\nMAIL FROM:<evil@far.test>\r\nRCPT TO:<victim@far.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nhello\r\n.\r\n"
    "MAIL FROM:<evil@far.test>\r\nRCPT TO:<victim@far.test>\r\nBDAT 4 LAST\r\nx\r\n\r\nRSET\r\nQUIT\r\n"
)


def mail(to, **more):
    return {"from": "Ann <a@acme.test>", "to": to, "subject": "chunks", "text": "t", **more}


def route(peer, tls="none"):
    return f"smtp://{peer.address}?tls={tls}"


def verbs(session):
    return [verb for verb, _ in session.commands]


def count(sink, wanted):
    return sum(verb == wanted for session in sink.sessions for verb in verbs(session))


def check_chunk(server, message, message_id):
    """It came by BDAT as the API shows it, the signatures before it, and the number was that of its octets."""
    assert message.verb == "BDAT"
    raw = server.api().get(f"/v1/messages/{message_id}/raw").content
    before = message.data[: len(message.data) - len(raw)]
    assert message.data == before + raw and message.wire == message.data
    assert re.fullmatch(rb"(DKIM-Signature:[^\r\n]*\r\n([ \t][^\r\n]*\r\n)*)+", before), before
    numbers = [argument for verb, argument in message.session.commands if verb == "BDAT"]
    assert f"{len(message.data)} LAST" in numbers
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


# ---- when -----------------------------------------------------------------------------------------------------------


def test_C37_a_message_by_BDAT_is_what_it_is_by_DATA(postchute, cleanly):
    chunks, dots = cleanly(Sink("11.22.18.1", extensions=WITH)), cleanly(Sink("11.22.18.2", extensions=WITHOUT))
    server = postchute(start=False, route="sandbox")
    server.declared["routes"] = [{"name": "chunks", "smarthosts": [route(chunks)]}, {"name": "dots", "smarthosts": [route(dots)]}]
    server.start()
    fields = {"text": DOTS + "Grüße\n", "html": f"<pre>\n{DOTS}</pre>\n"}
    ids = {name: server.deliver(**mail("b@far.test", **fields, route=name))["id"] for name in ("chunks", "dots")}
    (chunk,), (dotted,) = chunks.ledger, dots.ledger
    check_chunk(server, chunk, ids["chunks"])
    assert dotted.verb == "DATA" and count(dots, "BDAT") == 0 and count(chunks, "DATA") == 0
    assert common(chunk.data) == common(dotted.data) and b"\r\n..\r\n.dot\r\n\r\n" in chunk.data
    assert dotted.wire != dotted.data  # the dots were doubled there
    assert (chunk.mail_from, chunk.rcpts, chunk.mail_parameters.keys()) == (dotted.mail_from, dotted.rcpts, dotted.mail_parameters.keys())
    (attempt,) = server.attempts(ids["chunks"])
    assert f"C: BDAT {len(chunk.data)} LAST" in attempt["transcript"] and "C: DATA" not in attempt["transcript"]
    assert attempt["transcript"].endswith("S: 250 2.0.0 kept as 1\n"), attempt["transcript"]


def test_C37_all_of_it_is_sent_before_an_answer(postchute, cleanly):
    seen = []

    def mute_until_the_end(talk):
        talk.hello("PIPELINING", "CHUNKING")
        seen.append(flight(talk, recipients=2))
        talk.send("250 sender\r\n250 one\r\n250 two\r\n250 kept\r\n")
        talk.until_closed()

    peer = cleanly(HostileSMTP("11.22.18.3", mute_until_the_end))
    server = postchute(route=route(peer))
    message = server.deliver(**mail(["b@far.test", "c@far.test"], text=DOTS))
    (data,) = seen
    assert data.endswith(server.api().get(f"/v1/messages/{message['id']}/raw").content)


@pytest.mark.parametrize(
    "extensions",
    [WITHOUT, [one for one in WITH if one != "PIPELINING"], ("PIPELINING", "XCHUNKING", "SIZE 52428800"), ("PIPELINING", "BINARYMIME")],
    ids=["no-chunking", "no-pipelining", "another-keyword", "binarymime-alone"],
)
def test_C37_who_does_not_offer_both_gets_DATA(postchute, cleanly, extensions):
    sink = cleanly(Sink("11.22.18.4", extensions=extensions))
    server = postchute(route=route(sink))
    server.deliver(**mail("b@far.test", text=DOTS))
    assert [message.verb for message in sink.ledger] == ["DATA"] and count(sink, "BDAT") == 0


def test_C37_the_keyword_counts_as_it_was_said_last(postchute, cleanly, ca):
    """What was said before TLS is forgotten: there CHUNKING was offered, behind it it is not."""

    def before_tls_only(session, argument):
        text = "250-mx\r\n250-PIPELINING\r\n"
        return text + ("250 SIZE 52428800" if session.tls else "250-CHUNKING\r\n250 STARTTLS")

    sink = cleanly(Sink("11.22.18.5", certificate=ca.issue(["11.22.18.5"]), on={"EHLO": before_tls_only}))
    server = postchute(route=route(sink, "encrypt"))
    server.deliver(**mail("b@far.test"))
    assert [message.verb for message in sink.ledger] == ["DATA"] and sink.ledger[0].session.tls


def test_C37_what_is_larger_than_64_KiB_goes_by_DATA(postchute, cleanly):
    sink = cleanly(Sink("11.22.18.6", extensions=WITH))
    # one message a session: none that was silent for a while
    sink.one_message = True
    server = postchute(route=route(sink), delivery_threads=1)

    def size_of(octets):
        """Delivers so many octets of text; returns the message as it came."""
        lines, rest = divmod(octets, 72)
        server.deliver(**mail("b@far.test", text="a" * rest + "\n" + ("b" * 70 + "\n") * lines))
        return sink.ledger[-1]

    first = size_of(60_000)
    assert first.verb == "BDAT" and 60_000 < len(first.data) < MOST
    fits, beyond = size_of(60_000 + MOST - len(first.data)), size_of(60_000 + MOST - len(first.data) + 1)
    assert (len(fits.data), fits.verb) == (MOST, "BDAT")
    assert (len(beyond.data), beyond.verb) == (MOST + 1, "DATA")
    assert size_of(1_000_000).verb == "DATA"


def test_C37_a_server_that_was_silent_for_a_while_gets_DATA(postchute, cleanly):
    sink = cleanly(Sink("11.22.18.7", extensions=WITH))
    server = postchute(route=route(sink), delivery_threads=1)
    server.deliver(**mail("first@far.test"))
    (first,) = sink.ledger
    assert first.verb == "BDAT"
    wait_until(lambda: time.monotonic() - first.time > 1.2, "a second of silence")
    server.deliver(**mail("second@far.test"))
    second = sink.ledger[-1]
    assert (second.rcpts, second.verb, second.reused) == (["second@far.test"], "DATA", 1)
    # it has spoken: those that follow go by BDAT again, in the sessions that there are
    ids = [server.send(**mail(f"burst-{n}@far.test"))["id"] for n in range(40)]
    for one in ids:
        server.wait_state(one, "delivered")
    assert sum(message.verb == "BDAT" and message.reused > 0 for message in sink.ledger) > 0
    assert sorted(message.rcpts[0] for message in sink.ledger[2:]) == sorted(f"burst-{n}@far.test" for n in range(40))
    for message in sink.ledger:
        assert message.data.startswith(b"DKIM-Signature: ") and message.data.endswith(b"\r\n\r\nt\r\n")


# ---- smuggling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["text", "html"])
def test_T1_C37_a_false_ending_in_a_chunk_ends_nothing(postchute, cleanly, place):
    sink = cleanly(Sink("11.22.18.8", extensions=WITH))
    server = postchute(route=route(sink))
    ids = []
    for number, ending in enumerate(ENDINGS):
        content = f"before{ending}{SMUGGLED}{ending}after"
        fields = {"text": content} if place == "text" else {"html": f"<p>{content}</p>"}
        ids.append(server.send(**mail("b@far.test", subject=f"{place} {number}", **fields))["id"])
    for one in ids:
        server.wait_state(one, "delivered")
    assert len(sink.ledger) == len(ids)
    composed = [server.api().get(f"/v1/messages/{one}/raw").content for one in ids]
    for message in sink.ledger:
        assert message.mail_from == "a@acme.test" and message.rcpts == ["b@far.test"]
        assert re.fullmatch(rb"(?:[^\r\n\0]{0,999}\r\n)*", message.data), message.data
        (_,) = [one for one in composed if message.data.endswith(one)]
    assert sum(message.verb == "BDAT" for message in sink.ledger) > len(ids) // 2, "hardly any went by BDAT"
    for session in sink.sessions:
        assert session.faults == []
        assert set(verbs(session)) <= {"EHLO", "MAIL", "RCPT", "BDAT", "DATA", "RSET", "QUIT"}
        assert verbs(session).count("MAIL") == session.messages
        assert not any("evil" in argument or "victim" in argument for _, argument in session.commands)


# ---- refusals -------------------------------------------------------------------------------------------------------


def refuse(*locals_):
    def answer(session, argument):
        return next((reply for local, reply in locals_ if f"<{local}@" in argument), None)

    return answer


def test_C37_one_refused_recipient_does_not_hinder_the_other(postchute, cleanly):
    sink = cleanly(Sink("11.22.18.9", extensions=WITH, on={"RCPT": refuse(("bad", "550 5.1.1 unknown"))}))
    server = postchute(route=route(sink))
    seen = server.wait_final(server.send(**mail(["bad@far.test", "good@far.test"]))["id"])
    bad, good = seen["recipients"]
    assert (bad["state"], bad["attempts"], bad["refusal"]["code"], bad["refusal"]["stage"]) == ("bounced", 1, 550, "rcpt")
    assert (good["state"], good["attempts"], good["smtp"]["code"]) == ("delivered", 1, 250)
    (message,) = sink.ledger
    assert message.rcpts == ["good@far.test"]
    check_chunk(server, message, seen["id"])
    (attempt,) = server.attempts(seen["id"])  # one transaction for both
    assert attempt["transcript"].count("C: BDAT") == 1


def test_C37_a_message_that_is_refused_for_all_leaves_the_session_usable(postchute, cleanly):
    sink = cleanly(Sink("11.22.18.10", extensions=WITH, on={"RCPT": refuse(("bad", "550 5.1.1 unknown"), ("worse", "553 5.1.3 never"))}))
    server = postchute(route=route(sink), delivery_threads=1)
    seen = server.wait_final(server.send(**mail(["bad@far.test", "worse@far.test"]))["id"])
    assert [(one["state"], one["refusal"]["code"], one["refusal"]["stage"]) for one in seen["recipients"]] == [
        ("bounced", 550, "rcpt"), ("bounced", 553, "rcpt")]  # fmt: skip
    assert sink.ledger == []
    seen = server.deliver(**mail("good@far.test"))
    (session,) = sink.sessions
    assert verbs(session)[:8] == ["EHLO", "MAIL", "RCPT", "RCPT", "BDAT", "RSET", "MAIL", "RCPT"]
    (message,) = sink.ledger
    assert message.rcpts == ["good@far.test"] and message.verb == verbs(session)[8]
    assert "possible_duplicate" not in seen["recipients"][0]
    # 503 for nobody is no reason to believe that BDAT is not known
    assert "broke at BDAT" not in server.log()


def test_C37_a_refused_sender_bounces_and_leaves_the_session_usable(postchute, cleanly):
    answers = iter(["550 5.7.1 not from you"])
    sink = cleanly(Sink("11.22.18.11", extensions=WITH, on={"MAIL": lambda session, argument: next(answers, None)}))
    server = postchute(route=route(sink), delivery_threads=1)
    seen = server.wait_final(server.send(**mail(["a@far.test", "b@far.test"]))["id"])
    assert [(one["state"], one["refusal"]["code"], one["refusal"]["stage"]) for one in seen["recipients"]] == [("bounced", 550, "mail")] * 2
    assert sink.ledger == []
    server.deliver(**mail("next@far.test"))
    (session,) = sink.sessions
    assert verbs(session)[:8] == ["EHLO", "MAIL", "RCPT", "RCPT", "BDAT", "RSET", "MAIL", "RCPT"]
    assert [message.rcpts for message in sink.ledger] == [["next@far.test"]]
    assert "broke at BDAT" not in server.log()


@pytest.mark.parametrize("reply", ["554 5.7.1 not that", "552 5.2.3 too large", "500 5.6.0 not that", "503 5.7.0 not that", "554 no"])
def test_C37_a_refused_message_bounces(postchute, cleanly, reply):
    answers = iter([reply])
    sink = cleanly(Sink("11.22.18.12", extensions=WITH, on={"end": lambda session, message: next(answers, None)}))
    server = postchute(route=route(sink), delivery_threads=1)
    seen = server.wait_final(server.send(**mail(["b@far.test", "c@far.test"]))["id"])
    for one in seen["recipients"]:
        assert (one["state"], one["attempts"]) == ("bounced", 1), one
        assert (one["refusal"]["code"], one["refusal"]["stage"]) == (int(reply[:3]), "end"), one
        assert not one.get("possible_duplicate")
    assert [message.verb for message in sink.ledger] == ["BDAT"]
    server.deliver(**mail("next@far.test"))
    (session,) = sink.sessions
    assert verbs(session)[:7] == ["EHLO", "MAIL", "RCPT", "RCPT", "BDAT", "RSET", "MAIL"]


@pytest.mark.parametrize("reply", ["451 4.3.0 not now", "421 4.3.2 going down", "450 later"])
def test_C37_a_message_that_is_put_off_comes_again(postchute, cleanly, reply):
    answers = iter([reply])
    sink = cleanly(Sink("11.22.18.13", extensions=WITH, on={"end": lambda session, message: next(answers, None)}))
    server = postchute(route=route(sink), retry_after="200ms", delivery_threads=1)
    seen = server.deliver(**mail("b@far.test"))
    (recipient,) = seen["recipients"]
    assert recipient["attempts"] == 2 and not recipient.get("possible_duplicate"), recipient
    assert [message.reply[:3] for message in sink.ledger] == [reply[:3], "250"]
    assert sink.ledger[0].verb == "BDAT"
    (deferred,) = [event for event in server.events(seen["id"]) if event["type"] == "recipient.deferred"]
    assert f'"code": {reply[:3]}' in str(deferred).replace("'", '"')
    raw = server.api().get(f"/v1/messages/{seen['id']}/raw").content
    assert all(message.data.endswith(raw) for message in sink.ledger)


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
    server = postchute(route=route(sink), retry_after="60s", delivery_threads=1)
    to = [f"r{n}@far.test" for n in range(5)]
    seen = server.deliver(**mail(to))
    assert sorted(sum((message.rcpts for message in sink.ledger), [])) == to
    assert [len(message.rcpts) for message in sink.ledger] == [2, 2, 1] and len(sink.sessions) == 1
    assert all(one["attempts"] == 1 and not one.get("possible_duplicate") for one in seen["recipients"])
    raw = server.api().get(f"/v1/messages/{seen['id']}/raw").content
    assert all(message.data.endswith(raw) for message in sink.ledger) and sink.ledger[0].verb == "BDAT"


@pytest.mark.parametrize("extensions", [WITH, WITHOUT], ids=["chunking", "no-chunking"])
def test_C37_who_takes_one_message_a_session_costs_no_attempt(postchute, cleanly, extensions):
    """It closes behind each 250, when the rest of the recipients is under way: they had not been read, and go by another session."""
    sink = cleanly(Sink("11.22.18.24", extensions=extensions, on=most_two()))
    sink.one_message = True
    server = postchute(route=route(sink), retry_after="200ms", delivery_threads=1)
    to = [f"r{n}@far.test" for n in range(4)]
    seen = server.deliver(**mail(to))
    assert sorted(sum((message.rcpts for message in sink.ledger), [])) == to
    for one in seen["recipients"]:
        assert one["attempts"] == 1 and not one.get("possible_duplicate"), (one, [a["transcript"] for a in server.attempts(seen["id"])])


# ---- servers that offer it and do not know it -----------------------------------------------------------------------

UNKNOWN = ["502 5.5.1 unknown", "500 what?", "500 5.5.2 what?", "501 5.5.4 what?", "504 not here", "503 5.5.1 bad sequence"]


def ignorant(address, reply, **on):
    """Offers CHUNKING, says this to BDAT, and reads the message as commands."""
    sink = Sink(address, extensions=WITH, on={"BDAT": reply, **on})
    sink.unknown = {"BDAT"}
    return sink


@pytest.mark.parametrize("reply", UNKNOWN)
@pytest.mark.parametrize("threads", [1, 2])
def test_C37_who_does_not_know_BDAT_gets_DATA_and_nobody_is_the_worse(postchute, cleanly, reply, threads):
    sink = cleanly(ignorant("11.22.18.14", reply))
    # a retry would come too late
    server = postchute(route=route(sink), retry_after="60s", delivery_threads=threads)
    seen = server.deliver(**mail(["b@far.test", "c@far.test"]), timeout=20)
    (message,) = sink.ledger
    assert message.verb == "DATA" and message.rcpts == ["b@far.test", "c@far.test"]
    assert message.data.endswith(server.api().get(f"/v1/messages/{seen['id']}/raw").content)
    for recipient in seen["recipients"]:
        assert recipient["attempts"] == 1 and not recipient.get("possible_duplicate"), recipient
    assert [event["type"] for event in server.events(seen["id"])] == [
        "message.accepted", "recipient.delivered", "recipient.delivered", "message.completed"]  # fmt: skip
    (attempt,) = server.attempts(seen["id"])
    assert "C: DATA" in attempt["transcript"] and len(attempt["recipients"]) == 2
    # left at once
    broken = [session for session in sink.sessions if "BDAT" in verbs(session)]
    assert 1 <= len(broken) <= threads
    assert all(verbs(session)[:5] == ["EHLO", "MAIL", "RCPT", "RCPT", "BDAT"] for session in broken)
    assert all(not {"QUIT", "RSET", "DATA"} & set(verbs(session)) for session in broken)
    # and remembered
    ids = [server.send(**mail(f"later-{n}@far.test"))["id"] for n in range(5)]
    for one in ids:
        seen = server.wait_state(one, "delivered")
        assert seen["recipients"][0]["attempts"] == 1
    assert [message.verb for message in sink.ledger] == ["DATA"] * 6
    if threads == 1:
        assert count(sink, "BDAT") == 1
        assert len(re.findall("broke at BDAT: DATA for an hour", server.log())) == 1


def reads_on(taken):
    """A script: it does not know the BDAT that it offers, and answers a group of commands when it has read all of it (RFC 2920 3.2)."""

    def script(talk):
        talk.hello("PIPELINING", "CHUNKING")
        replies, sender, to = "", None, []

        def answer():
            try:
                talk.send(replies)
            except Closed:
                pass  # who is gone may have sent more

        while True:
            if b"\r\n" not in talk._buffer:
                answer()
                replies = ""
            line = talk.line()
            if line.startswith("MAIL FROM:"):
                sender = line
            elif line.startswith("RCPT TO:"):
                to.append(line)
            elif line == "DATA" and to:
                replies += "354 go\r\n"
                answer()
                taken.append((sender, to, talk.expect_data()))
                replies, sender, to = "250 kept\r\n", None, []
                continue
            elif line == "RSET":
                sender, to = None, []
            elif line != "QUIT":
                replies += "500 what?\r\n"
                continue
            replies += "250 ok\r\n"

    return script


@pytest.mark.parametrize("place", ["text", "html", "attachment"])
def test_T1_C37_who_does_not_know_BDAT_takes_no_message_for_commands(postchute, cleanly, place):
    """What stands in a message is nobody's command, also where it is read as such: no second message comes of it."""
    taken = []
    content = "RSET\r\nMAIL FROM:<evil@far.test>\r\nRCPT TO:<victim@far.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nhello\r\n.\r\nQUIT\r\n"
    attachment = {"filename": "a.eml", "content_type": "message/rfc822", "content": base64.b64encode(content.encode()).decode()}
    fields = {"attachment": {"text": "t", "attachments": [attachment]}}.get(place, {place: content})
    peer = cleanly(HostileSMTP("11.22.18.25", reads_on(taken)))
    server = postchute(route=route(peer), retry_after="60s", delivery_threads=1)
    server.deliver(**mail("b@far.test", **fields))
    assert [(sender.split(" SIZE")[0], to) for sender, to, _ in taken] == [("MAIL FROM:<a@acme.test>", ["RCPT TO:<b@far.test>"])], taken
    assert b"hello" in taken[0][2]


def test_C37_who_was_refused_before_an_unknown_BDAT_is_refused_once(postchute, cleanly):
    sink = cleanly(ignorant("11.22.18.15", "502 5.5.1 unknown", RCPT=refuse(("bad", "550 5.1.1 unknown"))))
    server = postchute(route=route(sink), retry_after="60s", delivery_threads=1)
    seen = server.wait_final(server.send(**mail(["bad@far.test", "good@far.test"]))["id"])
    bad, good = seen["recipients"]
    assert (bad["state"], bad["attempts"], bad["refusal"]["code"], bad["refusal"]["stage"]) == ("bounced", 1, 550, "rcpt")
    assert (good["state"], good["attempts"]) == ("delivered", 1)
    assert [(message.verb, message.rcpts) for message in sink.ledger] == [("DATA", ["good@far.test"])]
    asked = [argument for session in sink.sessions for verb, argument in session.commands if verb == "RCPT"]
    assert sum("<bad@" in one for one in asked) == 1 and sum("<good@" in one for one in asked) == 2


def test_C37_one_server_of_two_that_does_not_know_BDAT_is_remembered_alone(postchute, cleanly):
    old, new = cleanly(ignorant("11.22.18.16", "502 5.5.1 unknown")), cleanly(Sink("11.22.18.17", extensions=WITH))
    server = postchute(start=False, route="sandbox", delivery_threads=1)
    server.declared["routes"] = [{"name": "old", "smarthosts": [route(old)]}, {"name": "new", "smarthosts": [route(new)]}]
    server.start()
    server.deliver(**mail("b@far.test", route="old"))
    server.deliver(**mail("b@far.test", route="new"))
    assert [message.verb for message in old.ledger] == ["DATA"] and [message.verb for message in new.ledger] == ["BDAT"]


# ---- lost connections -----------------------------------------------------------------------------------------------


def flight(talk, recipients=1):
    """Reads all of a flight, and says nothing; returns the message."""
    talk.expect("MAIL FROM:")
    for _ in range(recipients):
        talk.expect("RCPT TO:")
    size, last = talk.expect("BDAT ").split(" ")[1:]
    assert last == "LAST"
    while len(talk._buffer) < int(size):
        talk._fill()
    data, talk._buffer = talk._buffer[: int(size)], talk._buffer[int(size) :]
    assert talk._buffer == b""
    return data


def takes_it(talk):
    """Answers MAIL and RCPT as they come, and a message by DATA or BDAT."""
    talk.hello("PIPELINING", "CHUNKING")
    while line := talk.line():
        if line == "DATA":
            talk.send("354 go\r\n")
            talk.expect_data()
        elif line.startswith("BDAT "):
            size = int(line.split(" ")[1])
            while len(talk._buffer) < size:
                talk._fill()
            talk._buffer = talk._buffer[size:]
        talk.send("250 2.0.0 kept\r\n" if line == "DATA" or line.startswith("BDAT ") else "250 ok\r\n")


def closes(talk):
    talk.hello("PIPELINING", "CHUNKING")
    flight(talk)
    talk.drop()


def resets(talk):
    talk.hello("PIPELINING", "CHUNKING")
    flight(talk)
    talk.reset()


def resets_at_MAIL(talk):
    talk.hello("PIPELINING", "CHUNKING")
    talk.expect("MAIL FROM:")
    talk.reset()


def is_silent(talk):
    talk.hello("PIPELINING", "CHUNKING")
    flight(talk)
    talk.until_closed()


def says_half_a_reply(talk):
    talk.hello("PIPELINING", "CHUNKING")
    flight(talk)
    talk.send("250 2.1")
    talk.drop()


def closes_behind_the_recipients(talk):
    talk.hello("PIPELINING", "CHUNKING")
    flight(talk)
    talk.send("250 2.1.0 sender\r\n250 2.1.5 recipient\r\n")
    talk.drop()


def is_silent_behind_the_recipients(talk):
    talk.hello("PIPELINING", "CHUNKING")
    flight(talk)
    talk.send("250 2.1.0 sender\r\n250 2.1.5 recipient\r\n")
    talk.until_closed()


LOST = [closes, resets, resets_at_MAIL, is_silent, says_half_a_reply, closes_behind_the_recipients, is_silent_behind_the_recipients]


@pytest.mark.parametrize("script", LOST, ids=lambda script: script.__name__.replace("_", "-"))
def test_C18_C37_a_flight_without_an_answer_has_an_unknown_outcome_and_DATA_follows(postchute, cleanly, script):
    peer = cleanly(HostileSMTP("11.22.18.18", [script, takes_it]))
    server = postchute(route=route(peer), retry_after="200ms", delivery_threads=1, smtp_mail_timeout="700ms", smtp_end_timeout="700ms")
    seen = server.deliver(**mail("b@far.test"))
    (recipient,) = seen["recipients"]
    assert recipient["attempts"] == 2 and recipient["possible_duplicate"] is True
    deferred, delivered = [event for event in server.events(seen["id"]) if event["type"].startswith("recipient.")]
    assert (deferred["type"], delivered["type"]) == ("recipient.deferred", "recipient.delivered")
    assert delivered["data"]["possible_duplicate"] is True
    first, second = server.attempts(seen["id"])
    assert "C: BDAT" in first["transcript"]
    lines = [line.split(" ")[0] for line in peer.sessions[1].lines]
    assert lines[:4] == ["EHLO", "MAIL", "RCPT", "DATA"], (lines, first["transcript"], second["transcript"])
    # and from then on
    server.deliver(**mail("c@far.test"))
    lines = [line.split(" ")[0] for session in peer.sessions[1:] for line in session.lines]
    assert lines.count("DATA") == 2 and "BDAT" not in lines


def test_C18_C37_a_lost_answer_to_the_chunk_makes_one_more_copy_at_most(postchute, cleanly):
    answers = iter([DROP])
    sink = cleanly(Sink("11.22.18.19", extensions=WITH, on={"end": lambda session, message: next(answers, None)}))
    server = postchute(route=route(sink), retry_after="200ms")
    seen = server.deliver(**mail("b@far.test"))
    assert len(sink.ledger) == 2 and sink.ledger[0].verb == "BDAT"
    assert {email.message_from_bytes(one.data)["Message-ID"] for one in sink.ledger} == {seen["message_id"]}
    (recipient,) = seen["recipients"]
    assert recipient["attempts"] == 2 and recipient["possible_duplicate"]


def test_C18_C37_who_was_refused_in_a_lost_flight_stays_refused(postchute, cleanly):
    def refuses_one(talk):
        talk.hello("PIPELINING", "CHUNKING")
        flight(talk, recipients=2)
        talk.send("250 2.1.0 sender\r\n550 5.1.1 unknown\r\n250 2.1.5 recipient\r\n")
        talk.drop()

    peer = cleanly(HostileSMTP("11.22.18.20", [refuses_one, takes_it]))
    server = postchute(route=route(peer), retry_after="200ms", delivery_threads=1)
    seen = server.wait_final(server.send(**mail(["bad@far.test", "good@far.test"]))["id"])
    bad, good = seen["recipients"]
    assert (bad["state"], bad["attempts"], bad["refusal"]["code"]) == ("bounced", 1, 550) and not bad.get("possible_duplicate")
    assert (good["state"], good["attempts"], good["possible_duplicate"]) == ("delivered", 2, True)
    assert [line for line in peer.sessions[1].lines if line.startswith("RCPT")] == ["RCPT TO:<good@far.test>"]


@pytest.mark.parametrize("goes", ["stays", "closes"])
def test_C37_a_session_that_is_ended_by_421_at_MAIL_costs_no_attempt(postchute, cleanly, goes):
    def once(talk):
        talk.hello("PIPELINING", "CHUNKING")
        flight(talk)
        talk.send("250 ok\r\n250 ok\r\n250 2.0.0 kept\r\n")
        talk.expect("MAIL FROM:")
        talk.send("421 4.4.2 idle for too long\r\n")
        if goes == "stays":
            talk.until_closed()
        talk.drop()

    peer = cleanly(HostileSMTP("11.22.18.21", [once, takes_it]))
    server = postchute(route=route(peer), retry_after="60s", delivery_threads=1)
    server.deliver(**mail("first@far.test"))
    seen = server.deliver(**mail("second@far.test"))
    (recipient,) = seen["recipients"]
    assert recipient["attempts"] == 1 and not recipient.get("possible_duplicate"), recipient
    assert [line for session in peer.sessions for line in session.lines if line.startswith("RCPT")] == [
        "RCPT TO:<first@far.test>", *(["RCPT TO:<second@far.test>"] if len(peer.sessions) == 2 else [])]  # fmt: skip
    assert len(peer.sessions) == 2


# ---- a real server, and TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postfix(ca):
    with Postfix("11.22.18.40", "mx.chunks.test", ["chunks.test"], ca.issue(["mx.chunks.test", "11.22.18.40"])) as one:
        yield one


@pytest.mark.parametrize("tls", ["none", "verify"])
def test_C37_a_real_Postfix_takes_chunks(postfix, postchute, ca, tls):
    server = postchute(route=f"smtp://11.22.18.40?tls={tls}" + (f"&ca={ca.directory}/ca.pem" if tls == "verify" else ""))
    to = [f"{name}-{tls}@chunks.test" for name in ("one", "two", "three")]
    text = DOTS + "Grüße aus Köln, 8 bit: äöüß €\n"
    seen = server.wait_final(server.send(**mail([*to, f"nobody-{tls}@chunks.test"], text=text))["id"])
    assert [one["state"] for one in seen["recipients"]] == ["delivered"] * 3 + ["bounced"]
    (attempt,) = server.attempts(seen["id"])
    assert re.search(r"^C: BDAT \d+ LAST$", attempt["transcript"], re.M) and "C: DATA" not in attempt["transcript"]
    assert bool(attempt.get("tls")) == (tls == "verify")
    raw = server.api().get(f"/v1/messages/{seen['id']}/raw").content.replace(b"\r\n", b"\n")
    records = {one["name"]: one["value"] for one in server.api().get("/v1/domains/acme.test").json()["records"] if one["purpose"] == "dkim"}
    for recipient in to:
        (stored,) = postfix.wait_mail(recipient)
        assert stored.endswith(raw)
        assert text_of(stored) == text
        assert (b"using TLSv1.3" in stored) == (tls == "verify")
        sent = stored[stored.index(b"DKIM-Signature:") :]
        assert len(dkim_verify(sent, records)) == len(signatures(stored)) == 1
    assert postfix.mails(f"nobody-{tls}@chunks.test") == []


def test_C37_a_chunk_may_have_8_bits(postfix, postchute):
    """A name that needs SMTPUTF8 stands in the header as it is."""
    server = postchute(route="smtp://11.22.18.40?tls=none")
    seen = server.deliver(**mail(["jörg@chunks.test", "eight@chunks.test"], text=DOTS))
    (attempt,) = server.attempts(seen["id"])
    assert re.search(r"^C: MAIL FROM:<a@acme\.test> .*BODY=8BITMIME SMTPUTF8$", attempt["transcript"], re.M), attempt["transcript"]
    assert re.search(r"^C: BDAT \d+ LAST$", attempt["transcript"], re.M)
    (stored,) = postfix.wait_mail("eight@chunks.test")
    assert "\nTo: jörg@chunks.test, eight@chunks.test\n".encode() in stored and text_of(stored) == DOTS
    assert stored.endswith(server.api().get(f"/v1/messages/{seen['id']}/raw").content.replace(b"\r\n", b"\n"))


def test_C37_a_Postfix_that_knows_no_chunks_gets_DATA(postchute):
    settings = {"smtpd_discard_ehlo_keywords": "chunking"}
    with Postfix("11.22.18.41", "mx.dots.test", ["dots.test"], settings=settings) as old:
        server = postchute(route="smtp://11.22.18.41?tls=none")
        seen = server.deliver(**mail("b@dots.test", text=DOTS))
        (stored,) = old.wait_mail("b@dots.test")
        assert text_of(stored) == DOTS
        (attempt,) = server.attempts(seen["id"])
        assert "C: DATA" in attempt["transcript"] and "BDAT" not in attempt["transcript"]


def test_C37_many_messages_arrive_at_a_Postfix_once_each(postfix, postchute):
    """Sessions are used again and again: what follows a chunk is a command, and no octet of it is lost."""
    server = postchute(route="smtp://11.22.18.40?tls=none")
    texts = {f"many-{n}@chunks.test": f".{n}\n" + "x" * (37 * n % 900) + "\n." * (n % 5) + "\n" for n in range(60)}
    ids = {to: server.send(**mail(to, text=text))["id"] for to, text in texts.items()}
    used = 0
    for to, one in ids.items():
        assert server.wait_state(one, "delivered")["recipients"][0]["attempts"] == 1
        used += "C: BDAT" in server.attempts(one)[0]["transcript"]
        (stored,) = postfix.wait_mail(to)
        assert stored.endswith(server.api().get(f"/v1/messages/{one}/raw").content.replace(b"\r\n", b"\n"))
        assert text_of(stored) == texts[to]
    assert used > 30, "hardly any went by BDAT"


@pytest.mark.parametrize("implicit", [False, True])
def test_C37_chunks_go_over_TLS(postchute, cleanly, ca, implicit):
    name = "11.22.18.22"
    sink = cleanly(Sink(name, extensions=WITH, certificate=ca.issue([name]), port=465 if implicit else 25, implicit_tls=implicit))
    server = postchute(route=f"{'smtps' if implicit else 'smtp'}://{name}?tls=verify&ca={ca.directory}/ca.pem")
    # more than one TLS record
    text = DOTS + "".join(f"{n} {'y' * 60}\n" for n in range(700))
    seen = server.deliver(**mail("b@far.test", text=text))
    (message,) = sink.ledger
    check_chunk(server, message, seen["id"])
    assert message.session.tls["version"] == "TLSv1.3" and 3 * 16384 > len(message.data) > 2 * 16384
    (attempt,) = server.attempts(seen["id"])
    assert attempt["tls"]["verified"] and "C: BDAT" in attempt["transcript"]
    if not implicit:
        assert verbs(message.session)[:6] == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "BDAT"]

"""T1: what goes over the wire, looked at octet by octet by who receives it: no text ends a message before its end."""

import base64
import re

import pytest

from peers.postchute import Postchute
from peers.sink import Sink

# what some server or other takes for the end of a message, and what comes close
ENDINGS = ["\n.\n", "\r.\r", "\r\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.\r", "\n.\r", "\r.\n", "\r\n.\r\n", "\r\n\0.\r\n", "\r\n.\0\r\n",
           "\n\n.\r\n", "\r\r\n.\r\r\n", "\r\n..\r\n", "\u2028.\u2028", "\x85.\x85"]  # fmt: skip
SMUGGLED = "MAIL FROM:<evil@far.test>\r\nRCPT TO:<victim@far.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nhello\r\n.\r\nQUIT\r\n"
WIRE = re.compile(rb"(?:[^\r\n\0]{0,999}\r\n)*\.\r\n")
VERBS = {"EHLO", "MAIL", "RCPT", "DATA", "RSET", "QUIT"}


@pytest.fixture(scope="module")
def world():
    with Sink("11.22.6.1", "mx.wire.test") as sink:
        server = Postchute(route=f"smtp://{sink.address}?tls=none")
        server.start()
        server.sink = sink
        yield server
        server.stop()


def check_wire(sink, since):
    """Everything that the sink got since then: one whole message a transaction, and no command of somebody else's."""
    messages = sink.ledger[since:]
    for message in messages:
        assert WIRE.fullmatch(message.wire), message.wire
        assert (b"\r\n" + message.wire).count(b"\r\n.\r\n") == 1
        assert message.mail_from != "evil@far.test" and message.rcpts == ["b@far.test"]
    for session in sink.sessions:
        assert session.faults == []
        assert {verb for verb, _ in session.commands} <= VERBS
        assert not any("evil" in argument or "victim" in argument for _, argument in session.commands)
    return messages


@pytest.mark.parametrize("place", ["text", "html", "attachment", "inline"])
def test_T1_a_false_ending_ends_nothing(world, place):
    since = len(world.sink.ledger)
    taken = []
    for number, ending in enumerate(ENDINGS):
        content = f"before{ending}{SMUGGLED}{ending}after"
        encoded = base64.b64encode(content.encode()).decode()
        fields = {
            "text": {"text": content},
            "html": {"html": f"<p>{content}</p>"},
            "attachment": {"text": "t", "attachments": [{"filename": "a.txt", "content_type": "text/plain", "content": encoded}]},
            "inline": {"html": "<img src=cid:a>", "attachments": [{"filename": "a.txt", "content_type": "text/plain", "content": encoded, "content_id": "a"}]},
        }[place]
        answer = world.api().post("/v1/messages", json={"from": "a@acme.test", "to": "b@far.test", "subject": f"{place} {number}", **fields})
        # a text with NUL is refused, never repaired
        assert answer.status_code == (400 if "\0" in ending and place in ("text", "html") else 202), (ending, answer.text)
        if answer.status_code == 202:
            taken.append(answer.json()["id"])
    for one in taken:
        world.wait_state(one, "delivered")
    messages = check_wire(world.sink, since)
    assert len(messages) == len(taken)
    # as it was composed, the signature before it, and nothing behind it
    composed = [world.api().get(f"/v1/messages/{one}/raw").content for one in taken]
    for message in messages:
        (_,) = [one for one in composed if message.data.endswith(one)]


@pytest.mark.parametrize("field", ["subject", "from", "to", "reply_to", "headers", "filename"])
def test_T1_T3_no_line_end_reaches_a_header_or_a_command(world, field):
    since = len(world.sink.ledger)
    for ending in ENDINGS:
        if ending in ("\u2028.\u2028",) and field in ("subject", "filename", "headers"):
            continue  # a letter like others where it is encoded
        value = f"x{ending}{SMUGGLED}"
        message = {"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"}
        if field == "headers":
            message["headers"] = {"X-Test": value}
        elif field == "filename":
            message["attachments"] = [{"filename": value, "content": "eA=="}]
        elif field == "subject":
            message["subject"] = value
        else:
            message[field] = f'"{value}"@far.test'
        answer = world.api().post("/v1/messages", json=message)
        assert answer.status_code == (400 if "\0" in ending else 422), (ending, answer.text)
    check_wire(world.sink, since)
    assert len(world.sink.ledger) == since

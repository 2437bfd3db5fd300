"""What the README promises of `postchute serve --dev`: one command, one line to paste, and everything can be seen."""

import re
import signal
import socket
import subprocess

import pytest
import requests

from peers.postchute import Postchute
from peers.process import wait_until
from peers.verify import dkim_verify, webhooks_verify


class Dev:
    """A started development profile, and what it printed."""

    def __init__(self, server):
        self.server = server
        self.key = (server.data / "dev.key").read_text().strip()
        server.admin_key = self.key

    @property
    def printed(self):
        return self.server.log()

    def get(self, path):
        answer = self.server.api().get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


def dev_server(**settings):
    server = Postchute(**{"admin_key": None, "hostname": None, "log_format": None, "log_level": None, **settings})
    server.arguments, server.declared = ["serve", "--dev"], None
    return server


@pytest.fixture(scope="module")
def dev():
    server = dev_server()
    server.start()
    yield Dev(server)
    server.stop()


def pasted(dev):
    """The printed command, as a user copies it: up to the empty line."""
    return dev.server.wait_log(r"(?s)Send a message:\n\n(  curl -X POST .*?)\n\n").group(1)  # printed when it is ready already


def send_pasted(dev):
    done = subprocess.run(["bash", "-c", pasted(dev)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    answer = requests.models.complexjson.loads(done.stdout)
    assert answer["state"] == "queued" and [r["email"] for r in answer["recipients"]] == ["ann@example.net"]
    return dev.server.wait_final(answer["id"])


def captured(dev, message):
    """The sandbox's capture of a message."""

    def find():
        for one in dev.get("/v1/sandbox/messages")["data"]:
            full = dev.get(f"/v1/sandbox/messages/{one['id']}")
            if message["message_id"] in full["content"]:
                return full
        return None

    return wait_until(find, "the message in the sandbox")


def test_the_printed_command_delivers_a_message(dev):
    seen = send_pasted(dev)
    assert seen["state"] == "delivered"
    assert seen["subject"] == "Your code" and seen["from"] == {"email": "no-reply@acme.test", "name": "Acme"}
    smtp = seen["recipients"][0]["smtp"]
    assert smtp["code"] == 250 and smtp["tls"].startswith("TLSv1.")
    (attempt,) = dev.server.attempts(seen["id"])  # the first of this server, so in a new session
    assert re.search(r"C: EHLO .*C: STARTTLS.*C: EHLO .*C: MAIL FROM", attempt["transcript"], re.S)
    assert [one["id"] for one in dev.get("/v1/messages")["data"]].count(seen["id"]) == 1


def test_the_other_printed_commands_show_it(dev):
    seen = send_pasted(dev)
    commands = re.findall(r"^  (curl -H .*)$", dev.printed, re.M)
    assert len(commands) == 3
    answers = []
    for command in commands:
        done = subprocess.run(["bash", "-c", command + " -fsS"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        answers.append(done.stdout)
    assert seen["id"] in answers[0]
    assert "ann@example.net" in answers[1]
    wait_until(lambda: seen["id"] in requests.get(
        dev.server.url + "/v1/sandbox/webhooks", headers={"Authorization": f"Bearer {dev.key}"}).text,
        "the message's webhooks in the receiver")  # fmt: skip


def test_T23_the_webhook_receiver_keeps_no_credentials(dev):
    url = dev.server.url + "/v1/sandbox/webhook-receiver"
    secrets = {"Authorization": "Bearer pc_live_of_somebody", "COOKIE": "session=of-somebody", "Proxy-Authorization": "Basic b2Ytc29tZWJvZHk=",
               "X-Api-Key": "of-somebody-else", "Webhook-Signature": "v1,kept"}  # fmt: skip
    assert requests.post(url, data=b'{"data": {"mark": "credentials"}}', headers=secrets, timeout=10).status_code == 204
    (found,) = [one for one in dev.get("/v1/sandbox/webhooks")["data"] if one["body"]["data"].get("mark") == "credentials"]
    assert found["meta"]["headers"]["webhook-signature"] == "v1,kept"
    assert {found["meta"]["headers"][name.lower()] for name in secrets if name != "Webhook-Signature"} == {"(not kept)"}
    stored = b"".join(path.read_bytes() for path in dev.server.data.glob("outbox.db*"))
    assert b"v1,kept" in stored
    for name, value in secrets.items():
        assert name == "Webhook-Signature" or value.encode() not in stored, name


def test_the_steps_of_a_message_are_printed(dev):
    seen = send_pasted(dev)
    wait_until(lambda: "message.completed" in dev.printed.split(seen["id"])[-1], "the last step")
    lines = [line for line in dev.printed.splitlines() if " INFO " in line]
    steps = [next((n for n, line in enumerate(lines) if re.search(step, line) and seen["id"] in line), None)
             for step in ("delivery: signed .*domain=acme.test signatures=2", "delivery: delivered .*code=250 tls=TLS")]
    assert None not in steps and steps == sorted(steps), "\n".join(lines[-12:])


def test_events_attempts_and_content_can_be_read(dev):
    seen = send_pasted(dev)
    types = [event["type"] for event in dev.server.events(seen["id"])]
    assert types == ["message.accepted", "recipient.delivered", "message.completed"]
    (attempt,) = dev.server.attempts(seen["id"])
    assert attempt["tls"]["version"].startswith("TLSv1.") and attempt["recipients"][0]["outcome"] == "delivered"
    assert re.search(r"C: MAIL FROM:<no-reply@acme.test>.*C: RCPT TO:<ann@example.net>.*S: 250 2.0.0",
                     attempt["transcript"], re.S)  # fmt: skip
    raw = dev.server.api().get(f"/v1/messages/{seen['id']}/raw")
    assert raw.headers["content-type"] == "message/rfc822" and b"\r\nSubject: Your code\r\n" in raw.content
    assert raw.content.endswith(b"\r\n\r\n123456\r\n")


def test_the_captured_message_is_signed_with_the_domains_keys(dev):
    full = captured(dev, send_pasted(dev))
    assert full["meta"]["rcpt_to"] == ["ann@example.net"] and full["meta"]["tls"]["version"].startswith("TLSv1.")
    domain = dev.get("/v1/domains/acme.test")
    records = {record["name"]: record["value"] for record in domain["records"] if record["purpose"] == "dkim"}
    found = dkim_verify(full["content"].encode(), records)
    assert {tags["a"] for tags in found} == {"rsa-sha256", "ed25519-sha256"}
    assert all(tags["d"] == "acme.test" and "l" not in tags and "t" in tags for tags in found)
    for name in ("from", "subject", "to", "date", "message-id"):
        # named once more than it stands there, so that nobody adds another
        assert all(tags["h"].lower().split(":").count(name) == 2 for tags in found), name


def test_the_built_in_receiver_gets_valid_webhooks(dev):
    endpoint = dev.get("/v1/webhooks")["data"][0]
    rotated = dev.server.api().post(f"/v1/webhooks/{endpoint['id']}/rotate", json={})
    assert rotated.status_code == 200
    seen = send_pasted(dev)

    def posts():
        found = [one for one in dev.get("/v1/sandbox/webhooks")["data"] if one["body"]["data"].get("message_id") == seen["id"]]
        return found if len(found) >= 3 else None

    found = wait_until(posts, "three webhooks in the receiver")
    assert {one["body"]["type"] for one in found} == {"message.accepted", "recipient.delivered", "message.completed"}
    # what was signed are the octets sent; the receiver shows parsed JSON, in the order and form that was sent
    body = [requests.models.complexjson.dumps(one["body"], separators=(",", ":")) for one in found]
    assert [len(text) for text in body] == [one["meta"]["size"] for one in found]
    webhooks_verify([(one["meta"]["headers"], text, [rotated.json()["secret"]]) for one, text in zip(found, body)])


@pytest.mark.parametrize(
    "local, state, code",
    [("bounce", "bounced", 550), ("defer", "deferred", 451), ("full", "deferred", 452), ("spam", "bounced", 554)],
)
def test_failures_can_be_tried(dev, local, state, code):
    message = dev.server.send(
        **{"from": "a@acme.test", "to": f"{local}+x@example.net", "subject": local, "text": "t"}
    )
    seen = dev.server.wait_state(message["id"], state)
    assert seen["recipients"][0]["refusal"]["code"] == code


def test_the_second_start_shows_the_same_key_and_keeps_the_messages():
    server = dev_server()
    server.start()
    first = Dev(server)
    message = send_pasted(first)
    shown = pasted(first)
    server.stop()
    server.start()
    again = Dev(server)
    assert again.key == first.key and pasted(again) == shown
    assert server.message(message["id"])["state"] == "delivered"
    assert (server.data / "dev.key").stat().st_mode & 0o777 == 0o600
    server.stop()


def test_ctrl_c_ends_it_with_status_0():
    server = dev_server()
    server.start()
    process, server.process = server.process, None
    assert process.stop(signal.SIGINT) == 0


def test_a_port_in_use_is_one_clear_line():
    server = dev_server()
    host, port = server.address.split(":")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, int(port)))
        taken.listen()
        done = server.command("serve", "--dev")
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("postchute: ")]
    assert len(said) == 1 and server.address in said[0] and "is in use: stop" in said[0], done.stderr
    assert not re.search(r"ERROR|Sanitizer", done.stdout + done.stderr)

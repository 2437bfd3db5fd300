"""The API's contract, over HTTP, with real deliveries behind it."""

import base64
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import socket
import threading
import time
import uuid

import jsonschema
import pytest
import requests
import yaml

from peers.contract import Contract
from peers.postchute import Postchute
from peers.process import wait_until
from peers.sink import Sink

BODY_MAX = 40 * 1024 * 1024  # the default of POSTCHUTE_MAX_REQUEST_BYTES
GOOD = {"from": "a@acme.test", "to": "b@far.test", "subject": "s", "text": "t"}


@pytest.fixture(scope="module")
def sink():
    with Sink("11.22.5.1") as sink:
        yield sink


@pytest.fixture(scope="module")
def server(sink):
    server = Postchute(
        profile="development", route=f"smtp://{sink.address}?tls=none", retry_after="60s", max_message_bytes="256KiB",
        max_request_bytes="512KiB", max_recipients=10, shutdown_timeout="1s",
    )  # fmt: skip
    server.declared["routes"] = [{"name": "nowhere-really", "kind": "sandbox"}]  # so there is a sandbox
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def contract(server):
    return Contract(server)


def message_count(server):
    return server.recipients()


# ---- the contract -----------------------------------------------------------------------------------------------------


def test_every_example_of_the_contract_is_answered_as_documented(server, contract):
    names = []
    hook = contract.ask("POST", "/v1/webhooks", json={"url": "https://hook.acme.test/x"}).json()
    for name, method, path, body in contract.examples():
        url = path.replace("{id}", hook["id"])
        if name.startswith("replayWebhook"):
            contract.ask("PATCH", url.removesuffix("/replay"), json={"state": "enabled"})
        answer = contract.ask(method, url, json=body)
        assert 200 <= answer.status_code < 300, f"{name}: {answer.status_code} {answer.text}"
        names.append(name)
    assert len(names) >= 14, names


def test_every_operation_of_the_contract_exists_and_answers_in_its_schema(server, contract):
    """GETs of everything that a small life leaves behind."""
    message = contract.ask("POST", "/send", json={**GOOD, "tags": ["x"], "metadata": {"k": "v"}, "external_id": "e"}).json()
    server.wait_final(message["id"])
    wait_until(lambda: contract.ask("GET", "/v1/sandbox/webhooks").json()["data"], "a webhook in the sandbox")
    key = contract.ask("POST", "/v1/keys", json={"name": "t", "scopes": ["send"], "test": True}).json()
    sent = requests.post(server.url + "/send", json=GOOD, headers={"Authorization": f"Bearer {key['key']}"}, timeout=10)
    assert sent.status_code == 202
    captured = wait_until(lambda: contract.ask("GET", "/v1/sandbox/messages").json()["data"], "a message in the sandbox")
    ids = {
        "/v1/messages/{id}": message["id"], "/v1/messages/{id}/events": message["id"],
        "/v1/messages/{id}/attempts": message["id"], "/v1/messages/{id}/raw": message["id"],
        "/v1/webhooks/{id}": None, "/v1/webhooks/{id}/deliveries": None,
        "/v1/sandbox/messages/{id}": captured[0]["id"], "/v1/domains/{name}": "acme.test",
    }  # fmt: skip
    hook = contract.ask("GET", "/v1/webhooks").json()["data"][0]["id"]
    for path, operations in contract.document["paths"].items():
        if "get" in operations:
            answer = contract.ask("GET", re.sub(r"\{\w+\}", lambda _: ids.get(path) or hook, path))
            assert answer.status_code == 200, f"{path}: {answer.text}"
            missing = re.sub(r"\{\w+\}", "01934d7e-6f00-7a3b-8c1d-0242ac120002", path)
            if missing != path:
                assert contract.ask("GET", missing).status_code == 404, path
    assert contract.ask("DELETE", f"/v1/keys/{key['id']}").status_code == 204


# ---- what is refused --------------------------------------------------------------------------------------------------


def deep(levels):
    return "[" * levels + "]" * levels


NOT_JSON = {
    "nothing": "", "a word": "hello", "unfinished": '{"from": "a@acme.test"', "two values": '{"a":1}{"b":2}',
    "single quotes": "{'from': 'x'}", "a trailing comma": '{"from": "a@acme.test",}', "NaN": '{"expires_in": NaN}',
    "duplicate keys": '{"subject": "a", "subject": "b"}', "nested duplicates": '{"metadata": {"a": "1", "a": "2"}}',
    "not UTF-8": b'{"subject": "\xff\xfe"}', "an overlong form": b'{"subject": "\xc0\xaf"}', "a lone surrogate": '{"subject": "\\ud800"}',
    "a NUL behind it": json.dumps(GOOD) + "\0", "33 levels": '{"headers": ' + deep(33) + "}", "a million levels": deep(200_000),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "a comment": '{/* */"subject": "x"}',
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_JSON)
def test_T15_what_is_not_json_is_a_400(server, contract, name):
    answer = contract.ask("POST", "/v1/messages", data=NOT_JSON[name], headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_json", answer.text


ATTACHMENT = {"filename": "a.txt", "content": "aGVsbG8="}
# (what is changed in a good message, the pointer that must be named, its code or None)
BAD = {
    "no from": ({"from": None}, "#/from", "required"),
    "no recipient": ({"to": None}, "#", None),
    "an empty list": ({"to": []}, "#", None),
    "no body": ({"text": None}, "#", None),
    "an unknown field": ({"subjekt": "x"}, "#/subjekt", "unknown_field"),
    "a field of another provider": ({"htmlBody": "x"}, "#/htmlBody", "unknown_field"),
    "a number as subject": ({"subject": 7}, "#/subject", "wrong_type"),
    "an object as text": ({"text": {"a": 1}}, "#/text", "wrong_type"),
    "a string as list": ({"attachments": "x"}, "#/attachments", "wrong_type"),
    "a word as boolean": ({"require_tls": "yes"}, "#/require_tls", "wrong_type"),
    "a bad address": ({"to": ["ok@far.test", "nobody"]}, "#/to/1", "invalid_address"),
    "a bad address object": ({"to": {"email": "x@", "name": "X"}}, "#/to/email", "invalid_address"),
    "an unknown part of an address": ({"to": {"email": "x@far.test", "nmae": "X"}}, "#/to/nmae", "unknown_field"),
    "two senders": ({"from": ["a@acme.test", "b@acme.test"]}, "#/from", "too_many"),
    "a group": ({"to": "friends: a@far.test, b@far.test;"}, "#/to", "invalid_address"),
    "two in one string": ({"to": "a@far.test, b@far.test"}, "#/to", "invalid_address"),
    "too many recipients": ({"to": [f"r{n}@far.test" for n in range(11)]}, "#", None),
    "bad base64": ({"attachments": [{**ATTACHMENT, "content": "a!b"}]}, "#/attachments/0/content", "invalid_base64"),
    "unpadded base64": ({"attachments": [{**ATTACHMENT, "content": "aGVsbG8"}]}, "#/attachments/0/content", "invalid_base64"),
    "no content": ({"attachments": [{"filename": "x"}]}, "#/attachments/0/content", "required"),
    "no file name": ({"attachments": [{"content": "aGVsbG8="}]}, "#/attachments/0/filename", "required"),
    "a structural header": ({"headers": {"Content-Type": "text/html"}}, "#/headers/Content-Type", None),
    "a header that is ours": ({"headers": {"DKIM-Signature": "x"}}, "#/headers/DKIM-Signature", None),
    "bcc as a header": ({"headers": {"Bcc": "x@far.test"}}, "#/headers/Bcc", None),
    "a bad header name": ({"headers": {"X Y": "1"}}, "#/headers/X%20Y", None),
    "an unknown tls level": ({"tls": "maybe"}, "#/tls", "invalid_value"),
    "a negative time": ({"expires_in": -1}, "#/expires_in", "out_of_range"),
    "a huge number": ({"expires_in": 10**18}, "#/expires_in", "out_of_range"),
    "a fraction": ({"expires_in": 1.5}, "#/expires_in", "wrong_type"),
    "an unknown route": ({"route": "nowhere"}, "#/route", "route_unknown"),
    "a long subject": ({"subject": "x" * 3000}, "#/subject", None),
    "too many tags": ({"tags": [f"t{n}" for n in range(50)]}, "#/tags", None),
    "metadata that is no text": ({"metadata": {"a": 1}}, "#/metadata/a", "wrong_type"),
    "a bad message id": ({"in_reply_to": "nonsense"}, "#/in_reply_to", None),
}  # fmt: skip


def changed(change):
    return {name: value for name, value in {**GOOD, **change}.items() if value is not None}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_named_by_its_place(server, contract, name):
    change, pointer, code = BAD[name]
    before = message_count(server)
    answer = contract.ask("POST", "/v1/messages", json=changed(change))
    assert answer.status_code == 422, answer.text
    found = {error["pointer"]: error for error in answer.json()["errors"]}
    place = next((one for one in found if one.startswith(pointer)), None)
    assert place is not None, f"{pointer} is not among {found}"
    assert code is None or found[place]["code"] == code, found
    assert found[place]["detail"]
    assert message_count(server) == before


def test_all_faults_are_in_one_answer(contract):
    fields = {"from": "nobody", "to": ["a@far.test", "x"], "cc": 7, "subjekt": "x", "tls": "no", "expires_in": "soon", "text": "t"}
    answer = contract.ask("POST", "/v1/messages", json=fields)
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert answer.status_code == 422
    assert pointers >= {"#/from", "#/to/1", "#/cc", "#/subjekt", "#/tls", "#/expires_in"}


NAMED, INLINE = {"filename": "a.txt"}, {"disposition": "inline"}
# (what is changed in a good message, whether it is good)
FORMS = {
    "an attachment without a name": ({"attachments": [{"content": ""}]}, False),
    "an attachment with a name": ({"attachments": [{"content": "", "fileName": "a.txt"}]}, True),
    "an attachment with a cid": ({"attachments": [{"content": "", "contentId": "a"}]}, True),
    "an attachment that is called one, with a cid": ({"attachments": [{"content": "", "cid": "a", "disposition": "attachment"}]}, False),
    "an attachment that is called one, with a name": ({"attachments": [{**NAMED, "content": "", "disposition": "attachment"}]}, True),
    "a part that is called inline": ({"attachments": [{**INLINE, "content": ""}]}, True),
    "a part with a cid that is called inline": ({"attachments": [{**INLINE, "content": "", "cid": "a"}]}, True),
    "a part whose cid is no such text": ({"attachments": [{"content": "", "cid": "a b"}]}, False),
    "a part with the oddest cid": ({"attachments": [{"content": "", "cid": "!#$%&'*+-./:=?@[]^_`{|}~"}]}, True),
    "a header name of 76": ({"headers": {"X" * 76: "v"}}, True),
    "a header name of 77": ({"headers": {"X" * 77: "v"}}, False),
    "a header without a name": ({"headers": {"": "v"}}, False),
    "a header name with a colon": ({"headers": {"X:": "v"}}, False),
    "a header value of 8192": ({"headers": {"X": "v" * 8192}}, True),
    "a header value of 8193": ({"headers": {"X": "v" * 8193}}, False),
    "a second header value of 8193": ({"headers": {"X": ["v", "v" * 8193]}}, False),
    "a metadata key of 64": ({"metadata": {"k" * 64: "v"}}, True),
    "a metadata key of 65": ({"metadata": {"k" * 65: "v"}}, False),
    "an empty metadata key": ({"metadata": {"": "v"}}, False),
    "an empty route": ({"route": ""}, False),
    "a null that is a name's": ({"headers": {"X": None}}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_the_contract_refuses_what_is_refused(contract, name):
    change, is_good = FORMS[name]
    message = {**GOOD, **change}
    schema = {"$ref": "#/components/schemas/Submission"}
    if is_good:
        contract.fits(schema, message)
    else:
        with pytest.raises(jsonschema.ValidationError):
            contract.fits(schema, message)
    assert contract.ask("POST", "/v1/messages", json=message).status_code == (202 if is_good else 422)


def lengths(value, said=""):
    """(limit, what is said about it, pattern) of every text whose length is limited."""
    if isinstance(value, list):
        for each in value:
            yield from lengths(each, said)
    elif isinstance(value, dict):
        said += " " + str(value.get("description", ""))
        if "maxLength" in value:
            yield value["maxLength"], said, value.get("pattern")
        for name, each in value.items():
            if name != "properties":
                yield from lengths(each, said)
        for each in value.get("properties", {}).values():
            yield from lengths(each)


def test_the_contract_says_that_lengths_are_octets(contract):
    found = list(lengths(contract.document))
    assert len(found) >= 20
    for limit, said, pattern in found:
        # what is us-ascii has as many octets as characters
        assert pattern or re.search(rf"\b{limit:,}\b", said) and "octets" in said, (limit, said)


def test_lengths_are_octets(contract):
    for field, limit in {"subject": 2048, "external_id": 255, "tags": 128}.items():
        assert contract.ask("POST", "/v1/messages", json={**GOOD, field: "ü" * (limit // 2)}).status_code == 202, field
        longer = contract.ask("POST", "/v1/messages", json={**GOOD, field: "ü" * (limit // 2 + 1)})
        assert longer.status_code == 422 and "octets" in longer.text, longer.text


def test_null_is_nothing_in_a_post_and_refused_in_a_patch(contract):
    hook = contract.ask("POST", "/v1/webhooks", json={"url": "https://hook.acme.test/n", "description": "d", "events": None}).json()
    url = f"/v1/webhooks/{hook.pop('id')}"
    for field in "url", "events", "description", "state":
        answer = contract.ask("PATCH", url, json={field: None})
        assert answer.status_code == 422, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{field}"]
    assert contract.ask("GET", url).json()["description"] == "d"
    assert contract.ask("PATCH", url, json={"description": ""}).json()["description"] == ""
    assert contract.ask("DELETE", url).status_code == 204


def test_a_test_key_without_a_sandbox_is_told_the_remedy(postchute):
    server = postchute(route="smtp://127.0.0.1:1?tls=none")
    key = server.api().post("/v1/keys", json={"name": "test", "scopes": ["send"], "test": True}).json()["key"]
    refused = server.api(key).post("/send", json=GOOD)
    assert refused.status_code == 422 and refused.json()["errors"][0]["code"] == "sandbox_unavailable"
    server.stop()
    server.declared |= yaml.safe_load(re.search(r"routes: \[.*\]", refused.json()["errors"][0]["detail"])[0])
    server.start()
    server.wait_state(server.send(key, **GOOD)["id"], "delivered")


def test_a_time_to_expire_has_one_limit(contract):
    five_days = 5 * 86400
    for seconds in five_days + 1, 31622400, 99999999, 2**63 - 1:
        answer = contract.ask("POST", "/v1/messages", json={**GOOD, "expires_in": seconds})
        assert [error["detail"] for error in answer.json()["errors"]] == [f"at most {five_days} seconds on this server"]
    assert contract.ask("POST", "/v1/messages", json={**GOOD, "expires_in": five_days}).status_code == 202


CONTROLS = {"CR": "\r", "LF": "\n", "CRLF": "\r\nBcc: evil@far.test", "NUL": "\0", "VT": "\v", "ESC": "\x1b",
            "NEL": "\x85", "LS": "\u2028", "folded": "\r\n folded"}  # fmt: skip
PLACES = {
    "subject": lambda x: {"subject": "a" + x + "b"}, "from name": lambda x: {"from": {"email": "a@acme.test", "name": "A" + x}},
    "to": lambda x: {"to": "b@far.test" + x}, "to name": lambda x: {"to": {"email": "b@far.test", "name": x + "B"}},
    "local part": lambda x: {"to": f'"a{x}b"@far.test'}, "domain": lambda x: {"to": f"a@far{x}.test"},
    "reply_to": lambda x: {"reply_to": f"R{x} <r@acme.test>"}, "sender": lambda x: {"sender": f"s{x}@acme.test"},
    "header value": lambda x: {"headers": {"X-A": "v" + x + "w"}}, "header name": lambda x: {"headers": {"X-A" + x: "v"}},
    "file name": lambda x: {"attachments": [{**ATTACHMENT, "filename": "a" + x + ".txt"}]},
    "content type": lambda x: {"attachments": [{**ATTACHMENT, "type": "text/plain" + x}]},
    "cid": lambda x: {"attachments": [{**ATTACHMENT, "cid": "logo" + x}]},
    "tag": lambda x: {"tags": ["t" + x]}, "external_id": lambda x: {"external_id": "e" + x},
    "metadata key": lambda x: {"metadata": {"k" + x: "v"}},
    "in_reply_to": lambda x: {"in_reply_to": f"<a{x}@b.test>"}, "references": lambda x: {"references": [f"<a{x}@b.test>"]},
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_T3_control_characters_are_refused_wherever_they_could_do_harm(server, contract, place):
    """T3: refused, never stripped; and nothing is stored."""
    before = message_count(server)
    for name, text in CONTROLS.items():
        answer = contract.ask("POST", "/v1/messages", json={**GOOD, **PLACES[place](text)})
        assert answer.status_code in (400, 422), f"{place} with {name}: {answer.status_code} {answer.text}"
        assert answer.status_code == 422 or name == "NUL", f"{place} with {name}: {answer.text}"
    assert message_count(server) == before


def test_percent_signs_and_line_ends_in_text_are_just_text(server, contract, sink):
    answer = contract.ask("POST", "/send", json={**GOOD, "to": "percent@far.test", "subject": "100%0d%0a sure", "text": "a\rb\nc\r\nd"})
    server.wait_state(answer.json()["id"], "delivered")
    (message,) = sink.wait(1, where=lambda message: message.rcpts == ["percent@far.test"])
    assert b"\r\nSubject: 100%0d%0a sure\r\n" in message.data and message.data.endswith(b"\r\n\r\na\r\nb\r\nc\r\nd\r\n")


def test_T16_what_is_too_large_is_a_413_that_names_the_limit(server, contract):
    composed = contract.ask("POST", "/v1/messages", json={**GOOD, "text": "x" * 300_000})
    assert composed.status_code == 413 and "262144" in composed.text
    body = contract.ask("POST", "/v1/messages", json={**GOOD, "text": "x" * 600_000})
    assert body.status_code == 413 and "524288" in body.text
    key = contract.ask("POST", "/v1/keys", data=b" " * 300_000, headers={"Content-Type": "application/json"})
    assert key.status_code == 413, key.text


def post_large(server, key, body):
    """One POST whose answer may come before all of it was sent."""
    host, port = server.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request("POST", "/send", body, {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused: the answer says why
    answer = connection.getresponse()
    found = (answer.status, json.load(answer), answer.headers.get("Retry-After"))
    connection.close()
    return found


def test_T16_a_burst_of_the_largest_messages_stays_within_the_memory_set_aside(postchute, capsys):
    """Two hundred at once, of the largest body there may be. Budget, one more body for each worker, and what the process has anyway; the surplus is
    told to come again."""
    server = postchute(route="smtp://127.0.0.1:1?tls=none", retry_after="60s", max_memory="256MiB")
    server.expect_log("site does not answer, paused")
    other = server.api().post("/v1/keys", json={"name": "other", "scopes": ["send"]}).json()["key"]
    content = base64.b64encode(bytes(18 * 1024 * 1024)).decode()
    body = json.dumps({**GOOD, "attachments": [{"filename": "x.bin", "content": content}]}).encode().ljust(BODY_MAX)

    def memory(name):
        status = pathlib.Path(f"/proc/{server.process.popen.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M)[1]) * 1024

    before = memory("VmRSS")
    together = threading.Barrier(200)

    def post(number):
        together.wait(60)
        return post_large(server, other if number % 2 else server.admin_key, body)

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(post, range(200)))
    assert {status for status, _, _ in answers} == {202, 503}
    assert {(answer["code"], again) for status, answer, again in answers if status == 503} == {("overloaded", "5")}
    budget, peak = 256 * 2**20 + 2 * len(body), memory("VmHWM") - before
    accepted = sum(status == 202 for status, _, _ in answers)
    with capsys.disabled():
        print(f"\n200 posts of {len(body) / 2**20:.1f} MiB: {accepted} accepted, at most {peak / 2**20:.1f} MiB more than the {before / 2**20:.1f} before"
              f" (allowed: {budget / 2**20:.1f})")  # fmt: skip
    # sanitizers hold on to what was freed
    if not re.search(rb"__[at]san_init", pathlib.Path(server.binary()).read_bytes()):
        assert peak < budget
    assert post_large(server, other, body)[0] == 202
    assert server.metric("postchute_http_body_bytes") == 0


def raw(server, text, until_closed=True):
    with socket.create_connection(tuple([server.address.split(":")[0], int(server.address.split(":")[1])]), timeout=10) as it:
        it.sendall(text if isinstance(text, bytes) else text.encode())
        answer = b""
        while got := it.recv(65536):
            answer += got
        return answer


def test_an_endless_body_is_refused_before_it_is_read(server):
    head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.admin_key}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
    assert b" 413 " in raw(server, head).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "method, path, status",
    [("GET", "/nowhere", 404), ("GET", "/v1/message", 404), ("DELETE", "/v1/messages", 405), ("PUT", "/send", 405),
     ("GET", "/send", 405), ("POST", "/livez", 405), ("GET", "/v1/messages/not-an-id", 404),
     ("GET", "/v1/messages/..%2f..%2fetc%2fpasswd", 404), ("GET", "/v1/messages/", 404)],
)  # fmt: skip
def test_wrong_paths_and_methods(server, method, path, status):
    answer = server.api().request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json" and answer.json()["status"] == status
    if status == 405:
        assert answer.headers["allow"]


TRAVERSALS = ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "..%5c..%5cetc", "%2e%2e%2f%2e%2e%2fkeys", "....//....//etc/passwd", "%252e%252e%252f",
              "/etc/passwd", "%2fetc%2fpasswd", "x%00.json", "..;/", "%c0%ae%c0%ae%c0%af", "file:%2f%2f%2fetc%2fpasswd", "C:%5c", ".", "~root"]  # fmt: skip


def test_T25_no_path_reaches_a_file(server, contract):
    """Each route with something in its path, and the root, by the octets themselves: libraries would tidy them up."""
    asked = 0
    before = message_count(server)
    for path, operations in [*contract.document["paths"].items(), ("/{x}", {"get": None}), ("/v1/{x}", {"get": None})]:
        if "{" not in path:
            continue
        for method in operations.keys() & {"get", "post", "patch", "delete"}:
            for name in TRAVERSALS:
                head = f"{method.upper()} {re.sub(r'{[^}]+}', lambda _: name, path)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                head += f"Authorization: Bearer {server.admin_key}\r\nContent-Type: application/json\r\n"
                body = "{}" if method in ("post", "patch") else ""
                answer = raw(server, f"{head}Content-Length: {len(body)}\r\n\r\n{body}")
                assert answer.split(b" ")[1] in (b"400", b"404", b"405", b"422"), (method, path, name, answer)
                assert b"root:" not in answer and b"SQLite format" not in answer
                asked += 1
    assert asked > 300 and message_count(server) == before


INJECTIONS = ["'", '"', "' OR '1'='1", "' OR 1=1 --", "'; DROP TABLE message; --", "x' UNION SELECT hash FROM api_key --", "%' ESCAPE '",
              "1); DELETE FROM recipient; --", "\\'; --", "?1", ":id", "@project", "$1", "*", "%", "_", "[a-z]", "a;b", "-1", "1e9", "0x10",
              "NULL", "CAST(1 AS TEXT)", "zeroblob(1000000000)", "\u02bc OR 1=1", "x" * 200]  # fmt: skip


def test_T24_no_text_becomes_sql(server, contract):
    """Every parameter of every list and path: an answer of the contract, nothing found that was not meant, and nothing gone."""
    mark = uuid.uuid4().hex
    contract.ask("POST", "/send", json={**GOOD, "tags": [mark], "external_id": mark})
    before = message_count(server)
    lists = [("/v1/messages", ["state", "to", "from", "tag", "external_id", "limit", "after"])]
    lists += [(path, ["limit", "after"]) for path in ("/v1/keys", "/v1/domains", "/v1/sandbox/messages", "/v1/sandbox/webhooks")]
    for path, names in lists:
        for name in names:
            for text in INJECTIONS:
                answer = contract.ask("GET", path, params={name: text})
                assert answer.status_code == 422 or (answer.status_code == 200 and answer.json()["data"] == []), (path, name, text)
    for text in INJECTIONS:
        quoted = requests.utils.quote(text, safe="")
        for path in ("/v1/messages/{}", "/v1/messages/{}/events", "/v1/domains/{}", "/v1/webhooks/{}"):
            assert contract.ask("GET", path.format(quoted)).status_code == 404, text
        # what is stored comes back as it was
        sent = contract.ask("POST", "/send", json={**GOOD, "subject": text, "tags": [text[:100]], "external_id": text, "metadata": {"k": text}},
                            headers={"Idempotency-Key": re.sub(r"[^!-~]", "_", text) + mark})  # fmt: skip
        assert sent.status_code == 202, sent.text
        seen = server.message(sent.json()["id"])
        assert (seen["subject"], seen["tags"], seen["external_id"], seen["metadata"]) == (text, [text[:100]], text, {"k": text})
        (found,) = contract.ask("GET", "/v1/messages", params={"external_id": text, "tag": text[:100], "limit": "1"}).json()["data"]
        assert found["id"] == seen["id"]
    assert message_count(server) == before + len(INJECTIONS)
    assert len(contract.ask("GET", f"/v1/messages?tag={mark}").json()["data"]) == 1


def test_two_slashes_are_not_one(server):
    """By http.client: newer versions of requests send one."""
    host, port = server.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "//v1/messages", headers={"Authorization": "Bearer " + server.admin_key})
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["code"]) == (404, "not_found")
    connection.close()


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", None])
def test_another_media_type_is_a_415(server, kind):
    answer = server.api().post("/send", data=json.dumps(GOOD), headers={"Content-Type": kind})
    assert answer.status_code == 415, answer.text


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "after=nonsense", "after=", "state=lost", "to=nobody", "limt=3", "limit=1&limit=2"]
)
def test_bad_queries_are_named(server, query):
    answer = server.api().get(f"/v1/messages?{query}")
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == "?" + query.partition("=")[0]


def test_a_cursor_of_another_list_is_refused(server, contract):
    for _ in range(3):
        contract.ask("POST", "/send", json=GOOD)
    cursor = contract.ask("GET", "/v1/messages?limit=1").json()["after"]
    answer = server.api().get(f"/v1/sandbox/webhooks?after={cursor}")
    assert answer.status_code == 422 and answer.json()["errors"][0]["code"] == "invalid_cursor"


def made_up_cursor(kind, number):
    return base64.b32encode(kind.encode() + number.to_bytes(8, "big")).decode().lower().rstrip("=")


@pytest.mark.parametrize("number", [2**40, 2**53, 2**62, 2**63 - 1])
def test_a_cursor_that_was_made_up_holds_up_nobody_and_shows_nothing_else(server, contract, number):
    before, message = [contract.ask("POST", "/send", json={**GOOD, "to": "made-up@far.test"}).json()["id"] for _ in range(2)]
    for one in (before, message):
        server.wait_final(one)
    first = server.api().get(f"/v1/messages/{before}/attempts?limit=1").json()["data"]
    assert first
    cursor = made_up_cursor("m", number)
    for query in ("", "&to=made-up@far.test", "&state=delivered", "&state=failed", "&to=nobody@far.test"):
        found = server.api().get(f"/v1/messages?after={cursor}{query}", timeout=10).json()["data"]
        assert [one["id"] for one in found[:2]] == ([] if "failed" in query or "nobody" in query else [message, before]), query
    for kind, path in (("a", "attempts"), ("e", "events")):
        assert server.api().get(f"/v1/messages/{message}/{path}?after={made_up_cursor(kind, number)}", timeout=10).json()["data"] == []


# ---- keys -------------------------------------------------------------------------------------------------------------


def new_key(contract, **fields):
    answer = contract.ask("POST", "/v1/keys", json={"name": "k", "scopes": ["send"], **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.mark.parametrize("key", [None, "nonsense", "pc_live_" + "a" * 48, "basic"])
def test_without_a_valid_key_nothing_is_said(server, key):
    headers = {} if key is None else {"Authorization": f"Bearer {key}" if key != "basic" else "Basic YTpi"}
    for method, path in (("POST", "/send"), ("GET", "/v1/messages"), ("GET", "/v1/keys"), ("DELETE", "/v1/domains/acme.test")):
        answer = requests.request(method, server.url + path, json=GOOD, headers=headers, timeout=10)
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer"), answer.text


def test_scopes_and_domains_bound_a_key(server, contract):
    key = new_key(contract, from_domains=["acme.test", "*.acme.test"])
    limited = Contract(server, key["key"])
    assert limited.ask("POST", "/send", json=GOOD).status_code == 202
    assert limited.ask("POST", "/send", json={**GOOD, "from": "a@sub.acme.test"}).status_code == 202
    for change in ({"from": "a@other.test"}, {"sender": "a@other.test"}, {"from": "a@acme.test.evil.test"}, {"from": "a@notacme.test"}):
        answer = limited.ask("POST", "/send", json={**GOOD, **change})
        assert answer.status_code == 403 and answer.json()["code"] == "from_not_allowed", answer.text
    assert limited.ask("POST", "/send", json={**GOOD, "from": "a@ACME.test"}).status_code == 202
    for path in ("/v1/keys", "/v1/domains", "/v1/webhooks"):
        assert limited.ask("GET", path).status_code == 403
    assert server.api(key["key"]).get("/v1/messages").status_code == 403  # send does not read
    server.expect_log("sent without a DKIM signature.*sub.acme.test")


def test_a_revoked_key_is_refused_at_once(server, contract):
    for _ in range(10):
        key = new_key(contract)
        session = server.api(key["key"])
        assert session.post("/send", json=GOOD).status_code == 202
        assert contract.ask("DELETE", f"/v1/keys/{key['id']}").status_code == 204
        assert session.post("/send", json=GOOD).status_code == 401


def test_webhooks_of_a_project_are_limited(contract):
    """Each of them costs a row for every event."""
    made = []
    while len(made) <= 101:
        answer = contract.ask("POST", "/v1/webhooks", json={"url": "https://hook.acme.test/x", "events": ["webhook.test"]})
        if answer.status_code != 201:
            break
        made.append(answer.json()["id"])
    for hook in made:
        assert contract.ask("DELETE", f"/v1/webhooks/{hook}").status_code == 204
    assert answer.status_code == 422 and "at most 100" in answer.json()["detail"], answer.text
    assert 90 <= len(made) <= 100


def memory_of(pid):
    """What a process has in memory of its own, piece by piece."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                begin, end = (int(part, 16) for part in span.split("-"))
                if end - begin > 2**32:
                    continue  # a sanitizer's shadow, terabytes of it
                memory.seek(begin)
                with contextlib.suppress(OSError):  # gone by now
                    yield memory.read(end - begin)


def test_T21_no_key_is_left_in_memory(server, contract):
    key = contract.ask("POST", "/v1/keys", json={"name": "memory", "scopes": ["read", "send"]}).json()["key"]
    api = server.api(key)
    for _ in range(20):
        assert api.get("/v1/messages").status_code == 200
        assert api.post("/send", json={}).status_code == 422
    api.close()
    contract.api.close()
    secret = key[16:48].encode()
    # the library's memory of a connection goes with it
    wait_until(lambda: not any(secret in piece for piece in memory_of(server.process.popen.pid)), "no key in memory", 10)


def test_the_last_use_of_a_key_is_known_whatever_changes(server, contract):
    """Keys are read anew at every change: what was used until then is not forgotten."""
    made = contract.ask("POST", "/v1/keys", json={"name": "used-once", "scopes": ["read"]}).json()
    assert server.api(made["key"]).get("/v1/messages").status_code == 200
    contract.ask("POST", "/v1/keys", json={"name": "another", "scopes": ["read"]})

    def used_at():
        after = None
        while True:
            page = contract.ask("GET", "/v1/keys" + (f"?after={after}" if after else "")).json()
            for key in page["data"]:
                if key["id"] == made["id"]:
                    return key.get("used_at")
            after = page["after"]

    wait_until(used_at, "used_at", 20)


def test_an_expired_key_is_refused(server, contract):
    soon = time.time() + 1.5
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(soon)) + f".{int(soon % 1 * 1000):03}Z"
    session = server.api(new_key(contract, expires_at=at)["key"])
    assert session.post("/send", json=GOOD).status_code == 202
    wait_until(lambda: session.post("/send", json=GOOD).status_code == 401, "the key's end", timeout=5, every=0.1)


def test_a_test_key_never_leaves(server, contract, sink):
    key = new_key(contract, test=True, scopes=["send", "read"])
    assert key["key"].startswith("pc_test_")
    answer = server.api(key["key"]).post("/send", json={**GOOD, "to": "never@far.test", "from": "x@anything.test"})
    seen = server.wait_state(answer.json()["id"], "delivered")
    assert seen["recipients"][0]["smtp"]["text"] == "captured"
    assert not [message for message in sink.ledger if "never@far.test" in message.rcpts]
    server.expect_log("sent without a DKIM signature.*anything.test")


def test_T21_a_key_is_nowhere_in_clear(server, contract):
    key = new_key(contract, name="leak")["key"]
    assert server.api(key).post("/send", json=GOOD).status_code == 202
    secret = key.removeprefix("pc_live_")
    listed = contract.ask("GET", "/v1/keys").text
    stored = b"".join(path.read_bytes() for path in server.data.iterdir() if path.is_file() and path.name != "dev.key")
    assert secret not in listed and secret not in server.log() and secret[16:].encode() not in stored
    assert server.admin_key not in server.log()


# ---- sending ----------------------------------------------------------------------------------------------------------


def test_an_idempotency_key_makes_one_message(server, contract, sink):
    message = {**GOOD, "to": "once@far.test"}
    headers = {"Idempotency-Key": "order-1"}
    first = contract.ask("POST", "/send", json=message, headers=headers)
    # the same message in another form
    second = contract.ask("POST", "/v1/messages", data=json.dumps(dict(reversed(message.items())), indent=3),
                          headers={**headers, "Content-Type": "application/json"})  # fmt: skip
    assert first.status_code == second.status_code == 202 and first.json() == second.json()
    assert "idempotency-replayed" not in first.headers and second.headers["idempotency-replayed"] == "true"
    assert second.headers["location"] == first.headers["location"] == f"/v1/messages/{first.json()['id']}"
    other = contract.ask("POST", "/send", json={**message, "text": "other"}, headers=headers)
    assert other.status_code == 422 and other.json()["code"] == "idempotency_key_reused"
    server.wait_final(first.json()["id"])
    assert len([one for one in sink.ledger if one.rcpts == ["once@far.test"]]) == 1
    # what was refused is not kept
    refused = contract.ask("POST", "/send", json={**message, "to": "nobody"}, headers={"Idempotency-Key": "order-2"})
    assert refused.status_code == 422
    assert contract.ask("POST", "/send", json=message, headers={"Idempotency-Key": "order-2"}).status_code == 202


@pytest.mark.parametrize("key", ["", "a b", "x" * 257, "ä"])
def test_a_bad_idempotency_key_is_refused(server, key):
    answer = server.api().post("/send", json=GOOD, headers={"Idempotency-Key": key.encode()})
    assert answer.status_code == 422 and answer.json()["errors"][0]["pointer"] == "header:Idempotency-Key"


def test_T31_fifty_at_once_with_one_idempotency_key_make_one_message(server, sink):
    message = {**GOOD, "to": "fifty@far.test"}

    def ask(_):
        return server.api().post("/send", json=message, headers={"Idempotency-Key": "fifty"})

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    server.wait_final(answers[0].json()["id"])
    assert len([one for one in sink.ledger if one.rcpts == ["fifty@far.test"]]) == 1


def test_T31_a_key_makes_one_message_whenever_the_server_is_killed(postchute):
    """Clients that repeat until they are answered, a server that is killed under them: one id and one message for each key."""
    server = postchute(route="smtp://11.22.5.99?tls=none", retry_after="1h")
    server.expect_log("attempts were under way at the last stop")
    server.expect_log("site does not answer, paused")
    ids, rounds, begun = {}, 4, threading.Event()
    stop_at = time.monotonic() + 60

    def client(number):
        for n in range(40):
            key, answers = f"k{number}-{n}", 2 if n % 3 == 0 else 1  # some ask once more, as if the answer had been lost
            while answers and time.monotonic() < stop_at:
                try:
                    answer = requests.post(server.url + "/send", json={**GOOD, "external_id": key}, timeout=5,
                                           headers={"Authorization": "Bearer " + server.admin_key, "Idempotency-Key": key})  # fmt: skip
                except requests.RequestException:
                    time.sleep(0.02)  # it is down: ask again
                    continue
                if answer.status_code == 202:
                    ids.setdefault(key, set()).add(answer.json()["id"])
                    begun.set()
                    answers -= 1

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        for _ in range(rounds):
            begun.clear()
            begun.wait(10)
            server.kill()
            server.start()
        for one in clients:
            one.result()
    assert len(ids) == 160 and all(len(found) == 1 for found in ids.values())
    stored = server._list("/v1/messages?limit=100")
    assert sorted(one["external_id"] for one in stored) == sorted(ids)
    assert {one["external_id"]: {one["id"]} for one in stored} == ids


def test_prefer_wait_answers_with_the_outcome(server, contract):
    answer = contract.ask("POST", "/send", json=GOOD, headers={"Prefer": "wait=10"})
    assert answer.status_code == 200 and answer.headers["preference-applied"] == "wait=10"
    assert answer.json()["state"] == "delivered" and answer.json()["recipients"][0]["smtp"]["code"] == 250


def test_prefer_wait_answers_in_time_when_it_takes_longer(server, contract, sink):
    sink.on["RCPT"] = lambda session, argument: "451 4.3.0 later" if "<slow@" in argument else None
    begun = time.monotonic()
    answer = contract.ask("POST", "/send", json={**GOOD, "to": "slow@far.test"}, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202 and 0.9 <= time.monotonic() - begun <= 3
    assert answer.json()["state"] in ("deferred", "queued", "sending")
    again = contract.ask("POST", "/send", json=GOOD, headers={"Prefer": "wait=10", "Idempotency-Key": "waits"})
    replay = contract.ask("POST", "/send", json=GOOD, headers={"Prefer": "wait=10", "Idempotency-Key": "waits"})
    assert again.status_code == replay.status_code == 200 and replay.headers["idempotency-replayed"] == "true"
    assert replay.json()["id"] == again.json()["id"] and replay.json()["state"] == "delivered"


@pytest.mark.parametrize(
    "asked, granted", [("wait=600", "wait=60"), ("wait=99999999999999999999", "wait=60"), ('wait="7"', "wait=7"), ("wait=0", "wait=0"),
                       ("wait=abc", None), ("wait=-1", None), ("wait=1.5", None), ("wait", None), ("respond-async", None),
                       ("wait=abc, wait=5", None)]
)  # fmt: skip
def test_the_answer_says_which_wait_was_granted(server, contract, asked, granted):
    answer = contract.ask("POST", "/send", json=GOOD, headers={"Prefer": asked})
    assert answer.headers.get("preference-applied") == granted
    assert answer.status_code == (200 if granted not in (None, "wait=0") else 202)


def test_T32_a_key_with_a_rate_is_told_when_to_come_again(server, contract):
    """Every request of the key counts, writes of all kinds; and only its own."""
    made = server.command("key", "create", "limited", "--rate", "2", "--scope", "manage", "--scope", "send")
    assert made.returncode == 0, made.stderr
    limited = server.api(made.stdout.strip())
    first = limited.post("/v1/domains", json={"name": "rated.test"})
    assert first.status_code == 201 and first.headers["ratelimit-policy"] == '"key";q=2;w=60'
    assert first.headers["ratelimit"].startswith('"key";r=1;')
    assert limited.post("/send", json=GOOD).status_code == 202
    for method, path, body in (("POST", "/v1/domains", {"name": "more.test"}), ("POST", "/send", GOOD), ("GET", "/v1/domains", None)):
        answer = limited.request(method, path, json=body)
        assert answer.status_code == 429 and answer.json()["code"] == "rate_limited", answer.text
        assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert contract.ask("GET", "/v1/domains").status_code == 200
    listed = {key["name"]: key["rate"] for key in contract.ask("GET", "/v1/keys?limit=100").json()["data"]}
    assert listed["limited"] == 2 and listed["admin"] is None
    refused = server.command("key", "create", "bad", "--rate", "often")
    assert refused.returncode == 1 and "#/rate" in refused.stderr, refused.stderr


def test_one_sender_in_an_array_is_one_sender(server, contract):
    sent = contract.ask("POST", "/send", json={**GOOD, "from": ["A <a@acme.test>"]})
    assert sent.status_code == 202 and server.message(sent.json()["id"])["from"]["email"] == "a@acme.test"
    for senders, code in ((["a@acme.test", "b@acme.test"], "too_many"), ([], "required")):
        answer = contract.ask("POST", "/send", json={**GOOD, "from": senders})
        assert answer.status_code == 422
        assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [("#/from", code)]


def test_attempts_come_by_pages(server, contract, sink):
    sink.on["RCPT"] = lambda session, argument: "451 4.3.0 later" if "<slow" in argument else None
    message = contract.ask("POST", "/send", json={**GOOD, "to": "slow7@far.test"}).json()["id"]
    for n in range(5):
        wait_until(lambda: server.message(message)["recipients"][0]["attempts"] == n + 1, f"attempt {n + 1}")
        if n < 4:
            assert contract.ask("POST", f"/v1/messages/{message}/retry").status_code == 202
    found, after, pages = [], None, 0
    while pages == 0 or after:
        page = contract.ask("GET", f"/v1/messages/{message}/attempts?limit=2" + (f"&after={after}" if after else "")).json()
        found += page["data"]
        after, pages = page["after"], pages + 1
    assert pages == 3 and found == contract.ask("GET", f"/v1/messages/{message}/attempts").json()["data"]
    assert len({one["started_at"] for one in found}) == len(found) == 5
    assert contract.ask("GET", f"/v1/messages/{message}/attempts?limit=101").status_code == 422
    contract.ask("POST", f"/v1/messages/{message}/cancel")


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/domains"])
def test_every_key_and_domain_is_on_one_page(server, contract, path):
    for n in range(3):
        made = {"name": f"page{n}", "scopes": ["read"]} if path == "/v1/keys" else {"name": f"page{n}.test"}
        assert contract.ask("POST", path, json=made).status_code == 201
    found, after = [], None
    while not found or after:
        page = contract.ask("GET", f"{path}?limit=2" + (f"&after={after}" if after else "")).json()
        assert len(page["data"]) <= 2
        found += [one["name"] for one in page["data"]]
        after = page["after"]
    assert [name[:5] for name in found if name.startswith("page")] == ["page0", "page1", "page2"]
    assert len(found) == len(contract.ask("GET", f"{path}?limit=100").json()["data"])
    assert contract.ask("GET", f"{path}?after=nonsense").status_code == 422


def test_cancel_ends_what_waits(server, contract, sink):
    sink.on["RCPT"] = lambda session, argument: "451 4.3.0 later" if "<slow" in argument else None
    message = contract.ask("POST", "/send", json={**GOOD, "to": ["slow1@far.test", "quick@far.test"]}).json()["id"]
    wait_until(lambda: [one["state"] for one in server.message(message)["recipients"]] == ["deferred", "delivered"], "one waits")
    answer = contract.ask("POST", f"/v1/messages/{message}/cancel")
    assert [one["result"] for one in answer.json()["recipients"]] == ["canceled", "final"]
    seen = server.message(message)
    assert [one["state"] for one in seen["recipients"]] == ["canceled", "delivered"] and seen["state"] == "partial"
    types = [event["type"] for event in server.events(message)]
    assert types[-2:] == ["recipient.canceled", "message.completed"]
    assert [one["result"] for one in contract.ask("POST", f"/v1/messages/{message}/cancel").json()["recipients"]] == ["final", "final"]


def test_retry_sends_what_waits_now(server, contract, sink):
    sink.on["RCPT"] = lambda session, argument: "451 4.3.0 later" if "<slow" in argument else None
    message = contract.ask("POST", "/send", json={**GOOD, "to": "slow2@far.test"}).json()["id"]
    server.wait_state(message, "deferred")
    sink.on.pop("RCPT")
    answer = contract.ask("POST", f"/v1/messages/{message}/retry")
    assert answer.status_code == 202
    assert server.wait_state(message, "delivered", timeout=10)["recipients"][0]["attempts"] == 2


def test_retry_of_a_bounced_one_is_a_new_message(server, contract, sink):
    sink.on["RCPT"] = lambda session, argument: "550 5.1.1 unknown" if "<gone@" in argument else None
    message = contract.ask("POST", "/send", json={**GOOD, "to": ["gone@far.test", "there@far.test"], "subject": "again"}).json()["id"]
    server.wait_final(message)
    sink.on.pop("RCPT")
    answer = contract.ask("POST", f"/v1/messages/{message}/retry")
    assert answer.status_code == 202, answer.text
    fresh = [one for one in contract.ask("GET", "/v1/messages?to=gone@far.test").json()["data"] if one["id"] != message]
    assert len(fresh) == 1, fresh
    seen = server.wait_final(fresh[0]["id"])
    assert seen["retry_of"] == message and [one["email"] for one in seen["recipients"]] == ["gone@far.test"]
    assert seen["state"] == "delivered"
    assert server.message(message)["recipients"][0]["state"] == "bounced"  # as it was
    done = contract.ask("POST", f"/v1/messages/{fresh[0]['id']}/retry")
    assert done.status_code == 409  # nothing is left to try


def test_pages_have_no_gap_and_no_double(server, contract):
    """While more come in: newest first, so what is new is before the first page."""
    tag = uuid.uuid4().hex
    ids = []
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {server.admin_key}"
        for n in range(250):
            ids.append(session.post(server.url + "/send", json={**GOOD, "tags": [tag], "subject": f"{n}"}, timeout=10).json()["id"])
    found, after, pages = [], None, 0
    while True:
        page = contract.ask("GET", f"/v1/messages?tag={tag}&limit=37" + (f"&after={after}" if after else "")).json()
        found += [one["id"] for one in page["data"]]
        pages += 1
        if pages % 2:
            contract.ask("POST", "/send", json={**GOOD, "tags": [tag]})
        after = page["after"]
        if after is None:
            break
    assert found == list(reversed(ids)) and pages == 7


def test_search_finds_by_each_field(server, contract):
    mark = uuid.uuid4().hex
    message = contract.ask("POST", "/send", json={**GOOD, "from": f"{mark[:8]}@acme.test", "to": f"T {mark[:6]} <{mark[:6]}@Far.test>",
                                                  "tags": ["a", mark], "external_id": mark}).json()["id"]  # fmt: skip
    server.wait_final(message)
    for query in (f"tag={mark}", f"external_id={mark}", f"from={mark[:8]}@acme.test", f"to={mark[:6]}@far.test",
                  f"tag={mark}&state=delivered"):  # fmt: skip
        assert [one["id"] for one in contract.ask("GET", "/v1/messages?" + query).json()["data"]] == [message], query
    for query in (f"tag={mark}&state=bounced", "tag=" + mark[:-1], f"external_id={mark}&to=b@far.test"):
        assert contract.ask("GET", "/v1/messages?" + query).json()["data"] == [], query


def test_a_look_at_dns_that_never_answers_ends_in_time(postchute):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, concurrent.futures.ThreadPoolExecutor(1) as pool:
        silent.bind(("11.22.5.77", 5353))
        server = postchute(route="smtp://11.22.5.99?tls=none", dns="11.22.5.77@5353", shutdown_timeout="2s")
        begun = time.monotonic()
        answer = Contract(server).ask("POST", "/v1/domains/acme.test/verify")
        assert answer.status_code == 200 and 9 <= time.monotonic() - begun <= 13
        assert {one["state"] for one in answer.json()["records"]} == {"unknown"}
        assert not answer.json()["complete"] and not answer.json()["verified"]
        # one that is under way does not hold up the end
        under_way = pool.submit(server.api().post, "/v1/domains/acme.test/verify")
        wait_until(lambda: server.metric("postchute_http_connections") >= 2, "it is under way")
        begun = time.monotonic()
        server.stop()
        assert under_way.result().status_code in (200, 503) and time.monotonic() - begun < 6


def test_an_accepted_message_is_on_disk_before_the_answer(postchute, sink):
    """kill -9 right behind the 202: it is there."""
    server = postchute(route="smtp://11.22.5.99?tls=none")  # nobody is there
    server.expect_log("site does not answer, paused")
    ids = [server.send(**GOOD)["id"] for _ in range(20)]
    server.kill()
    server.expect_log("attempts were under way at the last stop")
    server.expect_log("site does not answer, paused")
    server.start()
    assert all(server.message(one)["recipients"] for one in ids)


def test_staging_guards(postchute, sink):
    server = postchute(route=f"smtp://{sink.address}?tls=none", only_to=["ok@far.test", "staging.test"])
    assert server.api().post("/send", json={**GOOD, "to": ["ok@far.test", "x@staging.test"]}).status_code == 202
    answer = server.api().post("/send", json={**GOOD, "to": ["ok@far.test", "other@far.test"], "bcc": "b@near.test"})
    assert answer.status_code == 422
    assert {(error["pointer"], error["code"]) for error in answer.json()["errors"]} == {
        ("#/to/1", "recipient_not_allowed"), ("#/bcc", "recipient_not_allowed")}  # fmt: skip
    server.stop()
    server = postchute(route=f"smtp://{sink.address}?tls=none", redirect_to="catch@all.test")
    before = len(sink.ledger)
    server.deliver(**{**GOOD, "to": ["real@far.test"], "cc": ["other@near.test"]})
    assert [message.rcpts for message in sink.ledger[before:]] == [["catch@all.test"]]


def test_binary_attachments_and_unicode_survive(server, sink, contract):
    import email
    import email.policy
    import random

    content = random.Random(3).randbytes(50_000)
    fields = {
        "from": {"email": "a@acme.test", "name": "Jürgen “Jo” Müller, Jr."}, "to": {"email": "uni@far.test", "name": "Ζωή"},
        "subject": "Grüße 你好 🎉 " + "lang " * 40, "text": "Τι κάνεις;\n" + "x" * 5000, "html": "<p>ü</p>",
        "attachments": [{"filename": "Übersicht “2026”.bin", "content": base64.b64encode(content).decode(), "type": "application/x-thing"}],
    }  # fmt: skip
    contract.ask("POST", "/send", json=fields)
    (got,) = sink.wait(1, where=lambda message: message.rcpts == ["uni@far.test"])
    parsed = email.message_from_bytes(got.data, policy=email.policy.default)
    assert parsed["subject"] == fields["subject"] and parsed["from"].addresses[0].display_name == fields["from"]["name"]
    assert parsed["to"].addresses[0].display_name == "Ζωή"
    assert parsed.get_body("plain").get_content().replace("\r\n", "\n").rstrip("\n") == fields["text"]
    (attachment,) = parsed.iter_attachments()
    assert attachment.get_filename() == fields["attachments"][0]["filename"] and attachment.get_content() == content
    assert all(len(line) <= 998 for line in got.data.split(b"\r\n"))

"""Judges answers by the contract that the server itself serves (/openapi.json): the status must be documented for the
operation, and the body must fit its schema.

    contract = Contract(server)
    answer = contract.ask("POST", "/v1/messages", json={...})      # asserts, and returns the answer
"""

import re

import jsonschema
import requests


class Contract:
    def __init__(self, server, key=None):
        self.api = server.api(key)
        self.document = requests.get(server.url + "/openapi.json", timeout=10).json()
        self.paths = [
            (re.compile("^" + re.sub(r"\{[^}]+\}", "[^/]+", path) + "$"), path, operations)
            for path, operations in self.document["paths"].items()
        ]

    def resolve(self, value):
        while isinstance(value, dict) and "$ref" in value:
            at = self.document
            for part in value["$ref"].removeprefix("#/").split("/"):
                at = at[part.replace("~1", "/").replace("~0", "~")]
            value = at
        return value

    def operation(self, method, url):
        path = url.partition("?")[0]
        # a path without parameters comes before one with
        for pattern, _, operations in sorted(self.paths, key=lambda entry: "{" in entry[1]):
            if pattern.match(path) and method.lower() in operations:
                return operations[method.lower()]
        raise AssertionError(f"{method} {path} is not in the contract")

    def check(self, method, url, answer):
        responses = self.operation(method, url)["responses"]
        status = str(answer.status_code)
        assert status in responses, f"{method} {url}: {status} is not documented: {answer.text[:500]}"
        content = self.resolve(responses[status]).get("content")
        if not content:
            assert answer.content == b"", f"{method} {url}: {status} has no body: {answer.text[:200]}"
            return
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in content, f"{method} {url}: {status} is {kind}, documented are {list(content)}"
        if kind.endswith("json"):
            self.fits(content[kind].get("schema", {}), answer.json())

    def fits(self, schema, value):
        jsonschema.Draft202012Validator({**schema, "components": self.document["components"]}).validate(value)

    def ask(self, method, url, **options):
        answer = self.api.request(method, url, **options)
        self.check(method, url, answer)
        return answer

    def examples(self):
        """(name, method, path, body) of every example of a request."""
        for path, operations in self.document["paths"].items():
            for method, operation in operations.items():
                if method not in ("get", "post", "put", "patch", "delete"):
                    continue
                body = self.resolve(operation.get("requestBody", {}))
                for media, content in body.get("content", {}).items():
                    for name, example in content.get("examples", {}).items():
                        assert media == "application/json", media
                        yield f"{operation['operationId']}-{name}", method.upper(), path, self.resolve(example)["value"]

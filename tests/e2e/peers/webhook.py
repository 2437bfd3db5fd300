"""A receiver of webhooks, over http or https, that keeps what it was sent.

    with WebhookReceiver("11.22.4.1", certificate=cert) as hook:          # https://11.22.4.1:443/
        ...
        call, = hook.wait(1)
        call.headers["webhook-id"], call.body, call.json()

Answers come from `answers`: a list of statuses (or (status, headers, body)), used in turn, the last one for ever; or a
function of the call.
"""

import http.server
import json
import socket
import ssl
import threading
import time


class Call:
    def __init__(self, method, path, headers, body, peer):
        self.method, self.path, self.headers, self.body, self.peer = method, path, headers, body, peer
        self.time = time.monotonic()
        self.wall = time.time()

    def json(self):
        return json.loads(self.body)


class WebhookReceiver:
    def __init__(self, address, port=None, certificate=None, answers=(200,)):
        self.address = address
        self.port = port if port is not None else (443 if certificate else 80)
        self.answers = answers
        self.calls = []
        self._certificate = certificate
        self._changed = threading.Condition()
        self._server = None

    def url(self, path="/hook", host=None):
        scheme, usual = ("https", 443) if self._certificate else ("http", 80)
        port = "" if self.port == usual else f":{self.port}"
        return f"{scheme}://{host or self.address}{port}{path}"

    def start(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def setup(self):
                # the handshake happens here, in the connection's own thread
                if outer._certificate:
                    self.request.settimeout(60)
                    self.request = outer._context.wrap_socket(self.request, server_side=True)
                super().setup()

            def answer(self):
                size = int(self.headers.get("content-length", 0))
                body = self.rfile.read(size)
                headers = {name.lower(): value for name, value in self.headers.items()}
                call = Call(self.command, self.path, headers, body, self.client_address)
                with outer._changed:
                    number = len(outer.calls)
                    outer.calls.append(call)
                    outer._changed.notify_all()
                if callable(outer.answers):
                    answer = outer.answers(call)
                else:
                    answer = outer.answers[min(number, len(outer.answers) - 1)]
                status, more, text = answer if isinstance(answer, tuple) else (answer, {}, b"")
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                if "Content-Length" not in more:
                    self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = answer

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in outer.address else socket.AF_INET
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, *_):
                pass  # clients that hang up, also in the middle of a handshake, are the tests' business

        if self._certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(self._certificate.cert, self._certificate.key)
        self._server = Server((self.address, self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def wait(self, count=1, timeout=20.0, where=lambda call: True):
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [call for call in self.calls if where(call)]
                if len(found) >= count:
                    return found
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise AssertionError(
                        f"{len(found)} of {count} calls in {timeout:g} s; all calls: "
                        f"{[(call.method, call.path, call.body[:200]) for call in self.calls]}"
                    )

    def stop(self):
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

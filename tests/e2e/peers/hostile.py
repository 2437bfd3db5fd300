"""A server that does exactly what its script says, octet by octet; for servers that lie, stall or break. It speaks SMTP, or whatever
the script sends (`request` reads one of HTTP).

    def injects(c):
        c.send("220 mx.evil.test\r\n")
        c.expect("EHLO")
        c.send("250-mx.evil.test\r\n250 STARTTLS\r\n")
        c.expect("STARTTLS")
        c.send("220 go\r\n250-AUTH PLAIN\r\n")        # one segment: an injected reply
        c.until_closed()

    with HostileSMTP("11.22.3.1", injects) as server:
        ...
        server.wait_sessions(1)
        assert not any("AUTH" in line for line in server.sessions[0].lines)

A list of scripts serves the first connections in turn, the last one all others. A script that fails an `expect` or raises is
a failure of the test: `stop()` (also the end of `with`) raises it. The other side closing the connection ends a script
quietly; use `until_closed()` where that is the expected end.
"""

import socket
import ssl
import struct
import threading
import time


class Closed(Exception):
    """The client closed the connection."""


class Conversation:
    def __init__(self, connection, peer, certificate):
        self.socket, self.peer, self._certificate = connection, peer, certificate
        self.lines = []  # lines received, text
        self.received = b""  # every octet received outside TLS handshakes
        self.closed_by_client = False
        self.finished = False
        self._buffer = b""
        connection.settimeout(60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, text):
        """Sends exactly this, in one segment where the system allows."""
        try:
            self.socket.sendall(text.encode() if isinstance(text, str) else text)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    def drip(self, text, pause=0.0):
        """One octet per segment."""
        for octet in text.encode() if isinstance(text, str) else text:
            self.send(bytes([octet]))
            if pause:
                time.sleep(pause)

    def _fill(self):
        try:
            got = self.socket.recv(65536)
        except (ConnectionResetError, ssl.SSLError):
            got = b""
        if not got:
            self.closed_by_client = True
            raise Closed
        self.received += got
        self._buffer += got

    def line(self):
        while b"\r\n" not in self._buffer:
            self._fill()
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        self.lines.append(line.decode("utf-8", "replace"))
        return self.lines[-1]

    def expect(self, verb):
        line = self.line()
        assert line.upper().startswith(verb.upper()), f"expected {verb}, got {line!r}"
        return line

    def expect_data(self):
        """Reads up to the final dot."""
        while b"\r\n.\r\n" not in b"\r\n" + self._buffer:
            self._fill()
        data, self._buffer = (b"\r\n" + self._buffer).split(b"\r\n.\r\n", 1)
        return data[2:] + b"\r\n"

    def request(self):
        """One HTTP request, read whole; returns its first line and its body."""
        head = [self.line()]
        while head[-1]:
            head.append(self.line())
        fields = dict(line.lower().split(": ", 1) for line in head[1:-1])
        size = int(fields.get("content-length", 0))
        while len(self._buffer) < size:
            self._fill()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return head[0], body

    def hello(self, *extensions):
        """Greeting and EHLO, well behaved."""
        self.send("220 mx.hostile.test ESMTP\r\n")
        self.expect("EHLO")
        lines = ["mx.hostile.test", *extensions]
        self.send(
            "".join(f"250{' ' if n == len(lines) - 1 else '-'}{line}\r\n" for n, line in enumerate(lines))
        )

    def starttls(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate.cert, self._certificate.key)
        try:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        except (ssl.SSLError, OSError):
            self.closed_by_client = True
            raise Closed from None

    def reset(self):
        """Closes with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        raise Closed

    def drop(self):
        raise Closed

    def until_closed(self):
        """Says nothing more and reads until the client goes."""
        while True:
            self._fill()


class HostileSMTP:
    def __init__(self, address, scripts, port=25, certificate=None):
        self.address, self.port, self.certificate = address, port, certificate
        self.scripts = list(scripts) if isinstance(scripts, (list, tuple)) else [scripts]
        self.sessions, self.failures = [], []
        self._changed = threading.Condition()
        self._listener = None

    def start(self):
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self.address, self.port))
        self._listener.listen(256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def _accept(self, listener):
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            talk = Conversation(connection, peer, self.certificate)
            with self._changed:
                script = self.scripts[min(len(self.sessions), len(self.scripts) - 1)]
                self.sessions.append(talk)
                self._changed.notify_all()
            threading.Thread(target=self._serve, args=(talk, script), daemon=True).start()

    def _serve(self, talk, script):
        try:
            script(talk)
        except (Closed, BrokenPipeError, ConnectionResetError):
            pass
        except Exception as failure:  # noqa: BLE001  shown by stop()
            self.failures.append(failure)
        finally:
            try:
                talk.socket.close()
            except OSError:
                pass
            with self._changed:
                talk.finished = True
                self._changed.notify_all()

    def wait_sessions(self, count, timeout=20.0):
        """Waits until that many sessions are over; returns them."""
        with self._changed:
            good = self._changed.wait_for(
                lambda: sum(session.finished for session in self.sessions) >= count, timeout
            )
            assert good, f"{len(self.sessions)} of {count} sessions in {timeout:g} s: " + repr(
                [session.lines for session in self.sessions]
            )
            return [session for session in self.sessions if session.finished]

    def stop(self):
        if self._listener:
            listener, self._listener = self._listener, None
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for session in self.sessions:
            if not session.finished:
                try:
                    session.socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        with self._changed:  # what a script finds wrong last is a failure, too
            done = self._changed.wait_for(lambda: all(session.finished for session in self.sessions), 10)
        assert done, "a script goes on after its connection's end"
        if self.failures:
            raise self.failures[0]

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            try:
                self.stop()
            except Exception:  # noqa: BLE001  the first failure is the one to show
                pass

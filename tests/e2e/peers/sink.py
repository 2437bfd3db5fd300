"""An SMTP receiver that records: every octet of every message, every command, and what it answered.

    with Sink("11.22.2.1", "mx.far.test", certificate=cert) as sink:
        ...
        message, = sink.wait(1)
        message.rcpts, message.data, message.session.tls, sink.ledger

Answers are scripted with `on`, a dictionary from a stage ("connect", "EHLO", "MAIL", "RCPT", "DATA", "end", "AUTH",
"STARTTLS", "RSET", "QUIT", "NOOP") to a reply, or to a function `(session, argument) -> reply or None`; None means the
usual answer. A reply is text as sent, without its CRLF ("450 4.2.1 later"); DROP closes the connection.
`delay` (seconds) comes before the final reply to a message. It is lenient in nothing: a bare CR or LF inside a command or
a message, or octets between STARTTLS and TLS, are written down in `session.faults`, and fail the test at its end, unless it
sets `sink.expects_faults`. With `one_message` set it closes after each message, so that nobody's session is used twice.
Verbs in `unknown` are no commands to it, whatever it offers, and what follows them is read as commands.
"""

import base64
import re
import socket
import ssl
import threading
import time

DROP = object()


class Session:
    def __init__(self, peer):
        self.peer = peer
        self.commands = []  # (verb, argument) in order, AUTH secrets included
        self.ehlo = None
        self.tls = None  # {"version", "cipher", "sni"} after STARTTLS
        self.user = None
        self.messages = 0
        self.faults = []
        self.started = time.monotonic()
        self.ended = None


class Message:
    """One transaction that reached the end of its data. `data` is the message as composed (dot-stuffing undone),
    `wire` what came over the connection, final dot included."""

    def __init__(self, session):
        self.session = session
        self.mail_from = None
        self.mail_parameters = {}
        self.rcpts = []
        self.rcpt_parameters = {}
        self.data = b""
        self.wire = b""
        self.verb = "DATA"
        self.reply = None
        self.time = None
        self.reused = 0  # messages before it in the same session


_PATH = re.compile(r"^(FROM|TO):<([^>]*)>(.*)$", re.I | re.S)


class Sink:
    def __init__(self, address, name="mx.sink.test", port=25, certificate=None, users=None, on=None, delay=0.0,
                 extensions=("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 52428800"),
                 tls_versions=None, implicit_tls=False):  # fmt: skip
        self.address, self.port, self.name = address, port, name
        self.users, self.on, self.delay = users, on or {}, delay
        self.one_message = False
        self.unknown = set()
        self.extensions, self.implicit_tls = list(extensions), implicit_tls
        self.sessions, self.ledger = [], []
        self.expects_faults = False
        self._changed = threading.Condition()
        self._open = set()
        self._context = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate.cert, certificate.key)
            if tls_versions:
                self._context.set_ciphers("ALL:@SECLEVEL=0")
                self._context.minimum_version, self._context.maximum_version = tls_versions
        self._listener = None

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self):
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self.address, self.port))
        self._listener.listen(1024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def stop(self):
        if self._listener:
            listener, self._listener = self._listener, None
            # wakes accept(), which close() alone does not
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._changed:
            still = list(self._open)
        for connection in still:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        faults = [fault for session in self.sessions for fault in session.faults]
        assert self.expects_faults or not faults, f"what came to {self.name} is no SMTP: {faults[:5]}"

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind is not None:
            self.expects_faults = True  # the first failure is the one to show
        self.stop()

    def _accept(self, listener):
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()

    # ---- what arrived --------------------------------------------------------------------------------------------

    def wait(self, count=1, timeout=20.0, where=lambda message: True):
        """Waits until that many accepted messages satisfy `where`; returns them."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [one for one in self.ledger if one.reply and one.reply.startswith("2") and where(one)]
                if len(found) >= count:
                    return found
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise AssertionError(
                        f"{len(found)} of {count} messages arrived at {self.name} in {timeout:g} s; commands: "
                        f"{[session.commands for session in self.sessions][-5:]}"
                    )

    def wait_for(self, question, what, timeout=20.0):
        """Waits until question(sink) is true; it is asked again whenever something happens."""
        end = time.monotonic() + timeout
        with self._changed:
            while not (answer := question(self)):
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise AssertionError(f"waited {timeout:g} s in vain: {what}")
            return answer

    # ---- one session ---------------------------------------------------------------------------------------------

    def _serve(self, connection, peer):
        session = Session(peer)
        with self._changed:
            self.sessions.append(session)
            self._open.add(connection)
            self._changed.notify_all()
        talk = _Talk(self, session, connection)
        try:
            talk.run()
        except (OSError, ssl.SSLError, EOFError):
            pass
        finally:
            talk.close()
            with self._changed:
                session.ended = time.monotonic()
                self._open.discard(connection)
                self._changed.notify_all()

    def _note(self, session, verb, argument):
        with self._changed:
            session.commands.append((verb, argument))
            self._changed.notify_all()

    def _keep(self, message):
        with self._changed:
            self.ledger.append(message)
            self._changed.notify_all()


class _Talk:
    def __init__(self, sink, session, connection):
        self.sink, self.session, self.connection = sink, session, connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(120)
        self.buffer = b""
        self.message = None

    def close(self):
        try:
            self.connection.close()
        except OSError:
            pass

    def _fill(self):
        got = self.connection.recv(65536)
        if not got:
            raise EOFError
        self.buffer += got

    def _line(self):
        while b"\r\n" not in self.buffer:
            self._fill()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        if b"\n" in line or b"\r" in line or b"\0" in line:
            self.session.faults.append(("bare line end or NUL in a command", line))
        return line.decode("utf-8", "surrogateescape")

    def _send(self, reply):
        if reply is DROP:
            raise EOFError
        self.connection.sendall((reply + "\r\n").encode("utf-8", "surrogateescape"))
        return reply

    def _answer(self, stage, argument, usual):
        scripted = self.sink.on.get(stage)
        if callable(scripted):
            scripted = scripted(self.session, argument)
        reply = usual if scripted is None else scripted
        return self._send(reply)

    def _start_tls(self):
        self.session.tls = {"sni": None}

        def saw_name(_socket, name, _context):
            self.session.tls["sni"] = name

        self.sink._context.sni_callback = saw_name
        self.connection = self.sink._context.wrap_socket(self.connection, server_side=True)
        self.session.tls.update(version=self.connection.version(), cipher=self.connection.cipher()[0])

    def run(self):
        if self.sink.implicit_tls:
            self._start_tls()
        if not self._answer("connect", "", f"220 {self.sink.name} ESMTP").startswith("2"):
            pass
        while True:
            line = self._line()
            verb, _, argument = line.partition(" ")
            verb = verb.upper()
            self.sink._note(self.session, verb, argument)
            handler = None if verb in self.sink.unknown else getattr(self, "on_" + verb.lower(), None)
            if handler is None:
                self._answer(verb, argument, "500 5.5.2 what?")
            elif handler(argument):
                return

    def on_ehlo(self, argument):
        self.session.ehlo = argument
        self.message = None
        lines = [self.sink.name, *self.sink.extensions]
        if self.sink._context and not self.session.tls:
            lines.append("STARTTLS")
        if self.sink.users:
            lines.append("AUTH PLAIN LOGIN")
        text = "\r\n".join(
            f"250{' ' if number == len(lines) - 1 else '-'}{line}" for number, line in enumerate(lines)
        )
        self._answer("EHLO", argument, text)

    def on_helo(self, argument):
        self.session.ehlo = argument
        self.message = None
        self._answer("HELO", argument, f"250 {self.sink.name}")

    def on_starttls(self, argument):
        if not self.sink._context or self.session.tls:
            self._send("503 5.5.1 not now")
            return
        if self._answer("STARTTLS", argument, "220 2.0.0 go ahead").startswith("220"):
            if self.buffer:
                self.session.faults.append(("octets after STARTTLS, before TLS", self.buffer))
                self.buffer = b""
            self._start_tls()
            self.session.ehlo = None

    def on_auth(self, argument):
        mechanism, _, first = argument.partition(" ")
        user = password = ""
        if mechanism.upper() == "PLAIN":
            if not first:
                self._send("334 ")
                first = self._line()
            _, user, password = base64.b64decode(first).decode().split("\0")
        elif mechanism.upper() == "LOGIN":
            self._send("334 VXNlcm5hbWU6")
            user = base64.b64decode(self._line()).decode()
            self._send("334 UGFzc3dvcmQ6")
            password = base64.b64decode(self._line()).decode()
        good = (self.sink.users or {}).get(user) == password
        reply = self._answer("AUTH", argument, "235 2.7.0 welcome" if good else "535 5.7.8 no")
        if reply.startswith("235"):
            self.session.user = user

    def _path(self, argument, word):
        match = _PATH.match(argument)
        if not match or match.group(1).upper() != word:
            return None, {}
        parameters = {}
        for item in match.group(3).split():
            name, _, value = item.partition("=")
            parameters[name.upper()] = value
        return match.group(2), parameters

    def on_mail(self, argument):
        path, parameters = self._path(argument, "FROM")
        if path is None or self.message:
            self._answer("MAIL", argument, "501 5.5.4 no" if path is None else "503 5.5.1 nested MAIL")
            return
        if self._answer("MAIL", argument, "250 2.1.0 sender ok").startswith("2"):
            self.message = Message(self.session)
            self.message.mail_from, self.message.mail_parameters = path, parameters
            self.message.reused = self.session.messages

    def on_rcpt(self, argument):
        path, parameters = self._path(argument, "TO")
        if path is None or self.message is None:
            self._answer("RCPT", argument, "503 5.5.1 MAIL first" if path else "501 5.5.4 no")
            return
        if self._answer("RCPT", argument, "250 2.1.5 recipient ok").startswith("2"):
            self.message.rcpts.append(path)
            self.message.rcpt_parameters[path] = parameters

    def on_data(self, argument):
        if not self.message or not self.message.rcpts:
            self._answer("DATA", argument, "503 5.5.1 no recipients")
            return
        if not self._answer("DATA", argument, "354 go ahead").startswith("354"):
            return
        # RFC 5321 4.1.1.4: only CRLF.CRLF ends it
        scanned = 0
        body = b"\r\n" + self.buffer
        self.buffer = b""
        while (end := body.find(b"\r\n.\r\n", max(0, scanned - 5))) < 0:
            scanned = len(body)
            self._fill()
            body, self.buffer = body + self.buffer, b""
        self.buffer = body[end + 5 :]
        wire = body[2 : end + 5]
        content = body[2 : end + 2]
        if re.search(rb"(?<!\r)\n|\r(?!\n)|\0", content):
            self.session.faults.append(("bare line end or NUL in a message", content))
        self.message.wire = wire
        self.message.data = re.sub(rb"(\A|\r\n)\.", rb"\1", content)
        self._finish()

    def on_bdat(self, argument):
        size, _, last = argument.partition(" ")
        while len(self.buffer) < int(size):
            self._fill()
        chunk, self.buffer = self.buffer[: int(size)], self.buffer[int(size) :]
        if not self.message or not self.message.rcpts:
            self._answer("BDAT", argument, "503 5.5.1 no recipients")
            return
        self.message.verb = "BDAT"
        self.message.wire += chunk
        self.message.data += chunk
        if last.upper() == "LAST":
            self._finish()
        else:
            self._answer("BDAT", argument, "250 2.0.0 chunk ok")

    def _finish(self):
        message, self.message = self.message, None
        message.time = time.monotonic()
        if self.sink.delay:
            time.sleep(self.sink.delay)
        self.session.messages += 1
        scripted = self.sink.on.get("end")
        if callable(scripted):
            scripted = scripted(self.session, message)
        reply = f"250 2.0.0 kept as {len(self.sink.ledger) + 1}" if scripted is None else scripted
        # in the ledger before the sender learns of it: whoever waits for the sender's report finds it here
        message.reply = None if reply is DROP else reply
        self.sink._keep(message)
        self._send(reply)
        if self.sink.one_message:
            raise EOFError

    def on_rset(self, argument):
        self.message = None
        self._answer("RSET", argument, "250 2.0.0 reset")

    def on_noop(self, argument):
        self._answer("NOOP", argument, "250 2.0.0 ok")

    def on_quit(self, argument):
        self._answer("QUIT", argument, "221 2.0.0 bye")
        return True

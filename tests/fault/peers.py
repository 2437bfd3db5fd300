#!/usr/bin/python3
"""What a server needs around it to use all of its libraries: a DNS server, an SMTP receiver with STARTTLS, an HTTPS receiver of webhooks.

    tests/fault/peers.py CERT KEY SINK-LEDGER HOOK-LEDGER

All on loopback, on ports of their own. Every name has the address 127.0.0.1, for one second. The ledgers are those that
tests/crash/ledger.py reads: a line is written before the answer is. "cut" for "got" stands once more for each recipient of a message after which its
connection ended without any further command: its sender may not have read the answer (one that has says QUIT at least). "unsigned" and "clear" stand
for "got" where there is no signature, or no TLS. Prints "ready DNS SMTP HTTPS"
once; ends with its standard input, after the connections. What a recipient's local part begins with: "refused": 550; "later": 451 when it is seen
for the first time; "never": 451; "parked": 451 until it is taken. A line of standard input is answered with "done": "take RECIPIENT"; "quiet":
when no connection is left ("connections are left" after ten seconds), so that what was sent before stands in the ledgers.
"""
import asyncio
import os
import re
import ssl
import struct
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "crash")]
import ledger  # noqa: E402


class Ledger:
    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def put(self, *words):
        os.write(self.fd, (" ".join(words) + "\n").encode())


class Dns(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        if len(data) < 17:
            return
        end = data.index(0, 12) + 5
        question, type_ = data[12:end], struct.unpack(">H", data[end - 4:end - 2])[0]
        answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + bytes((127, 0, 0, 1)) if type_ == 1 else b""
        self.transport.sendto(data[:2] + struct.pack(">HHHHH", 0x8180, 1, 1 if answer else 0, 0, 0) + question + answer, peer)


class Smtp:
    def __init__(self, context, ledger):
        self.context, self.ledger, self.open, self.seen, self.taken = context, ledger, 0, set(), set()

    def verdict(self, rcpt):
        """None: it is taken."""
        if rcpt.startswith("refused"):
            return b"550 5.1.1 nobody of this name\r\n"
        is_first = rcpt not in self.seen
        if rcpt.startswith("parked") and rcpt not in self.taken:
            return b"451 4.7.1 not yet\r\n"
        if rcpt.startswith("later"):
            self.seen.add(rcpt)
        return b"451 4.7.1 come again\r\n" if rcpt.startswith("never") or rcpt.startswith("later") and is_first else None

    async def line(self, reader):
        text = await reader.readline()
        if not text.endswith(b"\r\n"):
            raise ConnectionError
        return text[:-2].decode("latin-1")

    async def data(self, reader):
        lines = []
        while (text := await reader.readline()) != b".\r\n":
            if not text:
                raise ConnectionError
            lines.append(text[1:] if text.startswith(b".") else text)
        return b"".join(lines)

    def take(self, data, rcpts, is_clear):
        head = data.split(b"\r\n\r\n", 1)[0].decode("latin-1")
        key, mid = re.search(r"(?im)^X-Ledger: (\S+)\r?$", head), re.search(r"(?im)^Message-ID: (\S+)\r?$", head)
        whole = bool(re.search(r"(?im)^DKIM-Signature:", head)) and data.endswith(b"\r\n")
        said = ledger.digest_of_mail(data)
        taken = [(key[1] if key else "-", mid[1] if mid else "-", rcpt, said) for rcpt in rcpts]
        for words in taken:
            self.ledger.put("clear" if is_clear else "got" if whole else "unsigned", *words)
        return taken

    async def __call__(self, reader, writer):
        rcpts, unanswered = [], []
        self.open += 1
        try:
            writer.write(b"220 sink.example.net ESMTP\r\n")
            while True:
                text = await self.line(reader)
                unanswered = []
                verb, is_clear = text[:4].upper(), writer.get_extra_info("ssl_object") is None
                if verb == "EHLO":
                    writer.write(b"250-sink.example.net\r\n" + (b"250-STARTTLS\r\n" if is_clear else b"") + b"250-PIPELINING\r\n250 8BITMIME\r\n")
                elif verb == "STAR":
                    writer.write(b"220 go\r\n")
                    await writer.drain()
                    # of Python 3.11 on
                    await writer.start_tls(self.context)
                elif verb == "RCPT":
                    rcpt = re.search("<([^>]*)>", text)[1]
                    no = self.verdict(rcpt)
                    if no is None:
                        rcpts.append(rcpt)
                    writer.write(no or b"250 ok\r\n")
                elif verb == "DATA" and not rcpts:
                    writer.write(b"554 5.5.1 for nobody\r\n")
                elif verb == "DATA":
                    writer.write(b"354 go\r\n")
                    unanswered = self.take(await self.data(reader), rcpts, is_clear)
                    rcpts = []
                    writer.write(b"250 taken\r\n")
                elif verb == "QUIT":
                    writer.write(b"221 bye\r\n")
                    await writer.drain()
                    return
                else:
                    rcpts = []
                    writer.write(b"250 ok\r\n")
        except (ConnectionError, OSError, ssl.SSLError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            for words in unanswered:
                self.ledger.put("cut", *words)
            self.open -= 1
            writer.transport.abort()


class Hook:
    def __init__(self, ledger):
        self.ledger, self.open = ledger, 0

    async def __call__(self, reader, writer):
        self.open += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?im)^content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                event, signed = re.search(r"(?im)^webhook-id: *(\S+)", head), re.search(r"(?im)^webhook-signature: *(\S+)", head)
                self.ledger.put("hook" if event and signed and body.endswith(b"}") else "mangled", event[1] if event else "-")
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (ConnectionError, OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()


async def quiet(loop, *receivers):
    end = loop.time() + 10
    while any(one.open for one in receivers) and loop.time() < end:
        await asyncio.sleep(0.02)
    return not any(one.open for one in receivers)


async def main():
    cert, key, sink, hook = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # clients that vanish in a handshake
    dns, _ = await loop.create_datagram_endpoint(Dns, local_addr=("127.0.0.1", 0))
    receiver, told = Smtp(context, Ledger(sink)), Hook(Ledger(hook))
    smtp = await asyncio.start_server(receiver, "127.0.0.1", 0, limit=1 << 22, backlog=512)
    https = await asyncio.start_server(told, "127.0.0.1", 0, ssl=context, limit=1 << 22, backlog=512)
    print("ready", dns.get_extra_info("sockname")[1], *(s.sockets[0].getsockname()[1] for s in (smtp, https)), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        what, *words = line.split()
        is_done = True
        if what == "take":
            receiver.taken.update(words)
        else:
            is_done = await quiet(loop, receiver, told)
        print("done" if is_done else "connections are left", flush=True)
    await quiet(loop, receiver)


if __name__ == "__main__":
    asyncio.run(main())

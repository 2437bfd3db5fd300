"""A DNS of the tests' own: a really signed tree under a root of our own, served by NSD; a validating Unbound; and a
forwarder that strips DNSSEC, as home routers do.

    dns = Dns()
    dns.zone("acme.test", '''
        @   MX 10 mx
        mx  A 11.22.1.1
        _25._tcp.mx TLSA 3 1 1 abcd...
    ''')                                        # signed; also mode="unsigned" | "bogus" | "expired"
    dns.start()
    ... POSTCHUTE_DNS=dns.resolver (validates), dns.authority (no recursion) or dns.stripping
    dns.stop()

While it runs, the trust anchor and hints of the private /usr/share/dns are those of this root, so a program that
validates with the system's anchor validates this tree.
"""

import base64
import contextlib
import datetime
import os
import re
import signal
import socket
import socketserver
import struct
import threading

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from .process import Process, check, scratch, wait_until

AUTHORITY = "11.22.0.53"
RESOLVER = "11.22.0.54"
STRIPPING = "11.22.0.55"
_ALGORITHM = "ECDSAP256SHA256"


class _Zone:
    def __init__(self, name, records, mode):
        assert mode in ("signed", "unsigned", "bogus", "expired"), mode
        self.name = name.rstrip(".")
        self.records = records
        self.mode = mode
        self.key = None
        self.serial = 1


class Dns:
    def __init__(self):
        self.dir = scratch("dns")
        self.zones = {}
        self.servers = []
        self.nsd = self.unbound = self.stripper = None
        self._bound = []
        self.authority, self.resolver, self.stripping = AUTHORITY, RESOLVER, STRIPPING
        self.zone("", "")

    # ---- what is in it -------------------------------------------------------------------------------------------

    def zone(self, name, records, mode="signed", reload=True):
        """Adds or replaces a zone; records are zone-file lines relative to it (SOA and NS are added). When the
        servers run already they reload and forget what they cached, unless more zones follow."""
        known = self.zones.get(name.rstrip("."))
        made = _Zone(name, records, mode)
        if known:
            made.key, made.serial = known.key, known.serial + 1
        self.zones[made.name] = made
        if self.nsd and reload:
            self.reload()
        return made

    def _origin(self, zone):
        return zone.name + "."

    def _path(self, zone, suffix=""):
        return self.dir / f"{zone.name or 'root'}.zone{suffix}"

    def _write(self, zone):
        origin = self._origin(zone)
        lines = [
            f"$ORIGIN {origin}",
            "$TTL 60",
            f"@ SOA ns.postchute-dns.test. admin.postchute-dns.test. {zone.serial} 3600 600 86400 1",
            "@ NS ns.postchute-dns.test.",
        ]
        if zone.name == "":
            lines.append(f"ns.postchute-dns.test. A {AUTHORITY}")
            for child in self.zones.values():
                if child.name == "":
                    continue
                lines.append(f"{child.name}. NS ns.postchute-dns.test.")
                if child.mode != "unsigned":
                    lines.append((self.dir / f"{child.key}.ds").read_text().strip())
        lines.append(re.sub(r"^[ \t]+", "", zone.records, flags=re.M))
        self._path(zone).write_text("\n".join(lines) + "\n")
        if zone.mode == "unsigned":
            self._path(zone, ".served").write_text(self._path(zone).read_text())
            return
        now = datetime.datetime.now(datetime.timezone.utc)
        start, end = now - datetime.timedelta(days=30), now + datetime.timedelta(days=30)
        if zone.mode == "expired":
            end = now - datetime.timedelta(days=1)
        check(
            "ldns-signzone", "-o", origin, "-i", start.strftime("%Y%m%d"), "-e", end.strftime("%Y%m%d"),
            "-f", self._path(zone, ".served"), self._path(zone), self.dir / zone.key, cwd=self.dir,
        )
        if zone.mode == "bogus":
            self._corrupt(self._path(zone, ".served"))

    @staticmethod
    def _corrupt(path):
        """Changes one bit of every signature over data; the keys' own stay good, so the zone is merely wrong."""

        def spoil(match):
            signature = bytearray(base64.b64decode(match.group(2)))
            signature[5] ^= 1
            return match.group(1) + base64.b64encode(bytes(signature)).decode()

        text = path.read_text()
        path.write_text(
            re.sub(r"(\sRRSIG\s+(?!DNSKEY)\w+ (?:\S+ ){7})([A-Za-z0-9+/=]{80,})", spoil, text)
        )

    def _build(self):
        for zone in self.zones.values():
            if zone.mode != "unsigned" and zone.key is None:
                origin = self._origin(zone)
                zone.key = check("ldns-keygen", "-a", _ALGORITHM, "-k", origin, cwd=self.dir).strip()
                ds = check("ldns-key2ds", "-n", "-2", f"{zone.key}.key", cwd=self.dir)
                (self.dir / f"{zone.key}.ds").write_text(ds)
        for zone in sorted(self.zones.values(), key=lambda zone: -len(zone.name)):
            self._write(zone)

    # ---- running it ----------------------------------------------------------------------------------------------

    def start(self):
        self._build()
        root_key = (self.dir / f"{self.zones[''].key}.key").read_text()
        (self.dir / "root.key").write_text(root_key)
        (self.dir / "root.hints").write_text(
            f". 3600 NS ns.postchute-dns.test.\nns.postchute-dns.test. 3600 A {AUTHORITY}\n"
        )
        self._trust()
        self._start_nsd()
        (self.dir / "unbound.conf").write_text(
            f"""server:
  interface: {RESOLVER}
  access-control: 0.0.0.0/0 allow
  username: ""
  chroot: ""
  directory: "{self.dir}"
  pidfile: "{self.dir}/unbound.pid"
  use-syslog: no
  num-threads: 1
  do-ip6: no
  module-config: "validator iterator"
  trust-anchor-file: "{self.dir}/root.key"
  root-hints: "{self.dir}/root.hints"
  outgoing-interface: {RESOLVER}
  local-zone: "test." nodefault
  local-zone: "22.11.in-addr.arpa." nodefault
  local-zone: "127.in-addr.arpa." nodefault
  cache-max-ttl: 1
  cache-max-negative-ttl: 1
  infra-host-ttl: 1
  val-bogus-ttl: 1
remote-control:
  control-enable: no
"""
        )
        self.unbound = Process(
            ["unbound", "-d", "-c", self.dir / "unbound.conf"], self.dir / "unbound.log"
        )
        self.unbound.wait_ready(lambda: self._answers(RESOLVER), "unbound answers")
        self.stripper = _Stripper(RESOLVER, STRIPPING)
        return self

    def _start_nsd(self):
        text = f"""server:
  ip-address: {AUTHORITY}
  username: ""
  chroot: ""
  zonesdir: "{self.dir}"
  pidfile: "{self.dir}/nsd.pid"
  zonelistfile: "{self.dir}/nsd.zones"
  xfrdfile: ""
  xfrdir: "{self.dir}"
  server-count: 1
  database: ""
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
"""
        for zone in self.zones.values():
            text += f'zone:\n  name: "{zone.name or "."}"\n  zonefile: "{self._path(zone, ".served")}"\n'
        (self.dir / "nsd.conf").write_text(text)
        # 'database' went away with nsd 4.8
        version = check("sh", "-c", "nsd -v 2>&1 | head -1")
        if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) >= (4, 8):
            (self.dir / "nsd.conf").write_text(text.replace('  database: ""\n', ""))
        self.nsd = Process(["nsd", "-d", "-c", self.dir / "nsd.conf"], self.dir / "nsd.log")
        self.nsd.wait_ready(lambda: self._answers(AUTHORITY), "nsd answers")

    @staticmethod
    def _answers(server):
        try:
            answer = dns.query.udp(dns.message.make_query(".", "SOA"), server, timeout=0.5)
        except (OSError, dns.exception.Timeout):
            return False
        return answer.rcode() == 0 and bool(answer.answer)

    def reload(self):
        """Serves the zones as they are now; unbound starts afresh, with nothing in its cache."""
        self.zones[""].serial += 1  # which unbound cannot know from its cache
        self._build()
        self.nsd.stop()
        self._start_nsd()
        # SIGHUP makes unbound read its configuration again and drop its cache
        self.unbound.popen.send_signal(signal.SIGHUP)
        root = self.zones[""]
        root_serial = root.serial

        def fresh():
            try:
                answer = dns.query.udp(dns.message.make_query(".", "SOA"), RESOLVER, timeout=0.5)
            except (OSError, dns.exception.Timeout):
                return False
            return answer.rcode() == 0 and any(
                record.serial == root_serial for rrset in answer.answer for record in rrset
                if rrset.rdtype == dns.rdatatype.SOA
            )

        wait_until(fresh, "unbound answers from the reloaded zones")

    def _trust(self):
        """Puts our root in the place of the real one, in this mount namespace only."""
        for name in ("root.key", "root.hints"):
            place = f"/usr/share/dns/{name}"
            if os.path.exists(place):
                check("mount", "--bind", self.dir / name, place)
                self._bound.append(place)

    def stop(self):
        for place in self._bound:
            with contextlib.suppress(AssertionError):
                check("umount", place)
        self._bound = []
        if self.stripper:
            self.stripper.stop()
        for server in (self.unbound, self.nsd):
            if server:
                server.stop()
        self.nsd = self.unbound = self.stripper = None

    def outage(self):
        """Ends the servers without forgetting the zones, for tests of DNS failure; `start()` brings them back."""
        self.stop()

    # ---- asking it -----------------------------------------------------------------------------------------------

    def ask(self, name, kind, server=RESOLVER, dnssec=True):
        query = dns.message.make_query(name, kind, want_dnssec=dnssec)
        query.flags |= dns.flags.AD
        return dns.query.udp_with_fallback(query, server, timeout=5)[0]

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


_DNSSEC_TYPES = {
    dns.rdatatype.RRSIG,
    dns.rdatatype.NSEC,
    dns.rdatatype.NSEC3,
    dns.rdatatype.DNSKEY,
    dns.rdatatype.DS,
    dns.rdatatype.NSEC3PARAM,
}


class _Stripper:
    """Forwards to a resolver and leaves out all that DNSSEC needs, in the query and in the answer."""

    def __init__(self, upstream, address):
        self.upstream = upstream
        outer = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self):
                data, sock = self.request
                sock.sendto(outer.answer(data), self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self):
                size = self.rfile.read(2)
                if len(size) == 2:
                    reply = outer.answer(self.rfile.read(struct.unpack("!H", size)[0]))
                    self.wfile.write(struct.pack("!H", len(reply)) + reply)

        socketserver.TCPServer.allow_reuse_address = True
        self.servers = [
            socketserver.ThreadingUDPServer((address, 53), Udp),
            socketserver.ThreadingTCPServer((address, 53), Tcp),
        ]
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, data):
        query = dns.message.from_wire(data)
        plain = dns.message.make_query(query.question[0].name, query.question[0].rdtype)
        try:
            # checking stays on upstream, so a bogus name is SERVFAIL here too
            got = dns.query.udp_with_fallback(plain, self.upstream, timeout=5)[0]
        except (OSError, dns.exception.Timeout):
            got = dns.message.make_response(query)
            got.set_rcode(2)
            return got.to_wire()
        got.id = query.id
        got.flags &= ~dns.flags.AD
        got.use_edns(-1)
        for section in (got.answer, got.authority):
            section[:] = [rrset for rrset in section if rrset.rdtype not in _DNSSEC_TYPES]
        return got.to_wire()

    def stop(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


class Meddler:
    """Stands before the resolver and hands questions and answers on as they are, octet by octet, signatures included; but what is asked of
    a name in `spoiled` ({"far.org": "servfail"}), or below it, fails, or gets no answer ("silent")."""

    def __init__(self, address, upstream=RESOLVER):
        self.address, self.upstream, self.spoiled = address, upstream, {}
        self.met = []  # of what was spoiled: (name, kind, how)
        outer = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self):
                data, sock = self.request
                with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as up:
                    up.settimeout(5)
                    up.connect((outer.upstream, 53))
                    if (answer := outer.spoil(data)) is None:
                        up.send(data)
                        answer = up.recv(65535)
                    if answer:
                        sock.sendto(answer, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self):
                while len(size := self.rfile.read(2)) == 2:
                    data = self.rfile.read(struct.unpack("!H", size)[0])
                    if (answer := outer.spoil(data)) is None:
                        with socket.create_connection((outer.upstream, 53), timeout=5) as up, up.makefile("rb") as file:
                            up.sendall(size + data)
                            answer = file.read(struct.unpack("!H", file.read(2))[0])
                    if answer:
                        self.wfile.write(struct.pack("!H", len(answer)) + answer)

        socketserver.TCPServer.allow_reuse_address = True
        self.servers = [
            socketserver.ThreadingUDPServer((address, 53), Udp),
            socketserver.ThreadingTCPServer((address, 53), Tcp),
        ]

    def spoil(self, data):
        """The answer in the place of the real one, empty: none at all; None: nothing is spoiled."""
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        how = next((how for spoiled, how in self.spoiled.items() if ("." + name).endswith("." + spoiled)), None)
        if how is None:
            return None
        self.met.append((name, dns.rdatatype.to_text(query.question[0].rdtype), how))
        if how == "silent":
            return b""
        got = dns.message.make_response(query)
        got.set_rcode(dns.rcode.SERVFAIL)
        return got.to_wire()

    def start(self):
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


def free_address(number):
    """The n-th address of the public-looking network, for servers of a test's own."""
    return f"11.22.{1 + number // 250}.{1 + number % 250}"


__all__ = ["AUTHORITY", "RESOLVER", "STRIPPING", "Dns", "Meddler", "free_address"]

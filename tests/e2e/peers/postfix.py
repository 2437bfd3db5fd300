"""A real Postfix: as the receiving MX of some domains, and as a smarthost that wants AUTH over TLS.

    mx = Postfix("11.22.1.1", "mx.acme.test", domains=["acme.test"], certificate=ca.issue("mx.acme.test"))
    mx.start()
    ... deliver to anyone@acme.test:25 ...
    message, = mx.wait_mail("anyone@acme.test")       # bytes of the file in the Maildir
    mx.stop()

Recipients whose local part starts with these words are refused: nobody 550 5.1.1, later 450 4.7.1, full 452 4.2.2,
blocked 554 5.7.1. A smarthost (`users={"ann": "secret"}`) takes mail for any domain from who is authenticated, on
ports 25 and 587 (STARTTLS) and 465 (TLS from the start), and keeps it in the same Maildirs.
"""

import os
import pathlib
import pwd
import smtplib

from .process import Process, check, scratch, wait_until

_MASTER = """\
{smtp}
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
local     unix  - n n - - local
virtual   unix  - n n - - virtual
lmtp      unix  - - n - - lmtp
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix:
    def __init__(self, address, name, domains=(), certificate=None, users=None, settings=None):
        self.address, self.name, self.domains = address, name, list(domains)
        self.certificate, self.users, self.settings = certificate, users or {}, settings or {}
        self.dir = scratch("postfix")
        self.conf, self.queue = self.dir / "conf", self.dir / "queue"
        self.mail, self.log_file = self.dir / "mail", self.dir / "mail.log"
        self.process = None

    def start(self):
        owner = pwd.getpwnam("postfix")
        for path in (self.conf, self.queue, self.mail, self.dir / "data"):
            path.mkdir(exist_ok=True)
        os.chown(self.dir / "data", owner.pw_uid, owner.pw_gid)
        os.chown(self.mail, owner.pw_uid, owner.pw_gid)
        self._configure()
        self.process = Process(
            ["/usr/lib/postfix/sbin/master", "-c", self.conf, "-d"], self.dir / "master.out"
        )
        for port in self.ports():
            self.process.wait_ready(lambda port=port: self._greets(port), f"postfix greets on {port}")
        return self

    def ports(self):
        return [25] + ([587] if self.users else []) + ([465] if self.users and self.certificate else [])

    def _greets(self, port):
        try:
            kind = smtplib.SMTP
            if port == 465:
                import ssl

                context = ssl._create_unverified_context()
                with smtplib.SMTP_SSL(self.address, port, timeout=2, context=context) as smtp:
                    return smtp.noop()[0] == 250
            with kind(self.address, port, timeout=2) as smtp:
                return smtp.noop()[0] == 250
        except (OSError, smtplib.SMTPException):
            return False

    def _configure(self):
        # the folders that `postfix check` would make
        owner = pwd.getpwnam("postfix")
        modes = {
            "active": 0o700, "bounce": 0o700, "corrupt": 0o700, "defer": 0o700, "deferred": 0o700, "flush": 0o700,
            "hold": 0o700, "incoming": 0o700, "private": 0o700, "saved": 0o700, "trace": 0o700, "maildrop": 0o730,
            "public": 0o710, "pid": 0o755,
        }  # fmt: skip
        for folder, mode in modes.items():
            path = self.queue / folder
            path.mkdir(exist_ok=True)
            path.chmod(mode)
            if folder != "pid":
                os.chown(path, owner.pw_uid, 60126 if folder in ("maildrop", "public") else owner.pw_gid)
        recipients = self.conf / "recipients"
        recipients.write_text(
            "/^nobody/ 550 5.1.1 no such user here\n"
            "/^later/ 450 4.7.1 come back later\n"
            "/^full/ 452 4.2.2 mailbox full\n"
            "/^blocked/ 554 5.7.1 blocked by policy\n"
        )
        main = {
            "compatibility_level": "3.6",
            "myhostname": self.name,
            "mydestination": "",
            # the address listened on is in master.cf: Postfix wants those here to be an interface's own
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4, ipv6" if ":" in self.address else "ipv4",
            "queue_directory": self.queue,
            "data_directory": self.dir / "data",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "command_directory": "/usr/sbin",
            "shlib_directory": "/usr/lib/postfix",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "maillog_file": self.log_file,
            "maillog_file_prefixes": "/",
            "alias_maps": "",
            "alias_database": "",
            "local_recipient_maps": "",
            "virtual_mailbox_domains": ", ".join(self.domains) if not self.users else "regexp:{{/./ any}}",
            "virtual_mailbox_base": self.mail,
            # one Maildir for all: virtual(8) takes no patterns; Delivered-To tells whose a message is
            "virtual_mailbox_maps": "static:all/",
            "virtual_mailbox_limit": "0",
            "virtual_uid_maps": f"static:{owner.pw_uid}",
            "virtual_gid_maps": f"static:{owner.pw_gid}",
            "virtual_minimum_uid": "100",
            "message_size_limit": "52428800",
            "smtpd_recipient_restrictions":
                f"check_recipient_access regexp:{recipients}, "
                + ("permit_sasl_authenticated, reject" if self.users else "reject_unauth_destination"),
            "smtpd_relay_restrictions":
                "permit_sasl_authenticated, reject" if self.users else "reject_unauth_destination",
            "smtpd_peername_lookup": "no",
            "smtpd_client_connection_count_limit": "0",
            "smtpd_forbid_bare_newline": "normalize",
            "append_dot_mydomain": "no",
            "smtputf8_enable": "yes",
            "smtpd_delay_reject": "yes",
            "disable_dns_lookups": "yes",
        }  # fmt: skip
        host = f"[{self.address}]" if ":" in self.address else self.address
        smtp = [f"{host}:25 inet n - n - - smtpd"]
        if self.certificate:
            main["smtpd_tls_cert_file"] = self.certificate.cert
            main["smtpd_tls_key_file"] = self.certificate.key
            main["smtpd_tls_security_level"] = "may"
            main["smtpd_tls_loglevel"] = "1"
            main["smtpd_tls_received_header"] = "yes"
        if self.users:
            main["smtpd_sasl_auth_enable"] = "yes"
            main["smtpd_sasl_type"] = "cyrus"
            main["smtpd_sasl_path"] = "smtpd"
            # Debian 12's Postfix looks there anyway, Debian 13's has to be told
            main["cyrus_sasl_config_path"] = self.conf / "sasl"
            main["smtpd_sasl_local_domain"] = self.name
            main["smtpd_tls_auth_only"] = "yes" if self.certificate else "no"
            main["smtpd_sasl_security_options"] = "noanonymous"
            smtp.append(f"{host}:587 inet n - n - - smtpd")
            if self.certificate:
                smtp.append(f"{host}:465 inet n - n - - smtpd -o smtpd_tls_wrappermode=yes")
            self._passwords()
        main.update(self.settings)
        (self.conf / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
        (self.conf / "master.cf").write_text(_MASTER.format(smtp="\n".join(smtp)))

    def _passwords(self):
        database = self.conf / "sasldb2"
        (self.conf / "sasl").mkdir(exist_ok=True)  # where Debian's Postfix looks, below its own configuration
        (self.conf / "sasl" / "smtpd.conf").write_text(
            "pwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
            "mech_list: PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256\n"
            f"sasldb_path: {database}\n"
        )
        for user, password in self.users.items():
            check("saslpasswd2", "-p", "-c", "-f", database, "-u", self.name, user, input=password + "\n")
        os.chown(database, *pwd.getpwnam("postfix")[2:4])

    # ---- what arrived --------------------------------------------------------------------------------------------

    def mails(self, recipient=None):
        """The messages as stored for one recipient, or for all, as bytes, oldest first. Postfix put Return-Path,
        X-Original-To, Delivered-To and Received before what was sent, and ended the lines with LF."""
        files = [path for path in pathlib.Path(self.mail).rglob("*") if path.parent.name == "new"]
        found = [path.read_bytes() for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]
        if recipient is None:
            return found
        mark = f"\nDelivered-To: {recipient}\n".lower().encode()
        return [message for message in found if mark in message.partition(b"\n\n")[0].lower() + b"\n"]

    def wait_mail(self, recipient=None, count=1, timeout=20.0):
        try:
            return wait_until(
                lambda: (lambda found: found if len(found) >= count else None)(self.mails(recipient)),
                f"{count} messages for {recipient or 'anyone'} at {self.name}",
                timeout,
            )
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.log()}") from None

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

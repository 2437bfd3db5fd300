"""What `make install` puts where, and the service of systemd: how much it may, judged by systemd itself."""

import pathlib
import re
import stat
import subprocess

import pytest

from peers.process import check, scratch

TOP = pathlib.Path(__file__).resolve().parents[2]


def installed(binary, *variables):
    """make install into a folder of its own, of the program under test."""
    to = scratch("installed")
    options = ["-s", "-C", TOP, "-o", "build", f"B={pathlib.Path(binary).parent}", f"DESTDIR={to}", *variables]
    check("make", *options, "install")
    return to, lambda: check("make", *options, "uninstall")


def unit(folder):
    """section -> name -> values"""
    found, section = {}, None
    for line in folder.read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, value = line.split("=", 1)
            section.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("prefix", ["/usr/local", "/opt/mail"])
def test_make_install_and_uninstall(postchute, prefix):
    binary = postchute(start=False).binary()
    to, uninstall = installed(binary, f"PREFIX={prefix}")
    files = {str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()}
    root = prefix.lstrip("/")
    assert files == {f"{root}/bin/postchute", f"{root}/lib/systemd/system/postchute.service", f"{root}/lib/sysusers.d/postchute.conf",
                     *(f"{root}/share/doc/postchute/{name}" for name in ("README.md", "CHANGELOG.md", "LICENSE"))}  # fmt: skip
    program = to / root / "bin/postchute"
    assert stat.S_IMODE(program.stat().st_mode) == 0o755 and check(program, "version").startswith("postchute ")
    assert stat.S_IMODE((to / "etc/postchute").stat().st_mode) == 0o700
    service = unit(to / root / "lib/systemd/system/postchute.service")["Service"]
    assert service["ExecStart"] == [f"{prefix}/bin/postchute serve"]
    assert not str(to) in (to / root / "lib/systemd/system/postchute.service").read_text()
    uninstall()
    assert not [path for path in to.rglob("*") if path.is_file()]


def test_T30_the_service_may_little(postchute, capsys):
    service = scratch("service") / "postchute.service"
    text = (TOP / "server/postchute.service").read_text()
    # verify wants to see the program; nothing else is different
    service.write_text(text.replace("/usr/local/bin/postchute", postchute(start=False).binary()))
    said = check("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", service)
    (level,) = re.findall(r"Overall exposure level for postchute.service: ([0-9.]+)", said)
    with capsys.disabled():
        print(f"\nsystemd-analyze security: exposure {level} (allowed: 1.5)")
    assert float(level) <= 1.5, said
    done = subprocess.run(["systemd-analyze", "verify", "--man=false", service], capture_output=True, text=True, timeout=60)
    faults = [line for line in (done.stdout + done.stderr).splitlines() if "postchute" in line]
    assert not faults, faults
    for name, value in (("NoNewPrivileges", "yes"), ("ProtectSystem", "strict"), ("PrivateTmp", "yes"), ("MemoryDenyWriteExecute", "yes"),
                        ("CapabilityBoundingSet", ""), ("User", "postchute"), ("Type", "notify"), ("LimitCORE", "0")):  # fmt: skip
        assert unit(service)["Service"][name] == [value]
    assert re.search(r"^u postchute ", (TOP / "server/postchute.sysusers").read_text(), re.M)


def calls_of(group):
    """The system calls of one of systemd's groups, with those of the groups in it."""
    found = set()
    for line in check("systemd-analyze", "--no-pager", "syscall-filter", group).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= calls_of(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def test_T30_the_service_may_what_the_servers_own_filter_allows():
    """Else a call that works elsewhere fails under systemd. Only root's SQLite calls fchown()."""
    allowed = set()
    for line in unit(TOP / "server/postchute.service")["Service"]["SystemCallFilter"]:
        for word in line.lstrip("~").split():
            calls = calls_of(word) if word.startswith("@") else {word}
            allowed = allowed - calls if line.startswith("~") else allowed | calls
    source = (TOP / "server/base/confine.c").read_text()
    ours = set(re.findall(r'"(\w+)"', source[source.index(" allowed[] = {") : source.index(" deadly[] = {")]))
    ours |= set(re.findall(r'^    \{"(\w+)"', source[source.index(" allowed_with[] = {") :], re.M))
    assert len(ours) > 120 and ours - allowed == {"fchown"}
    assert "seccomp" in allowed and "prctl" in allowed  # by which the filter is set

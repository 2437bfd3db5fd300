"""What harnesses need to steer shim.so: the shared page of tests/power/shim.h, by name."""
import mmap
import os
import struct

(OPEN, WRITE, SYNC, TRUNCATE, UNLINK, READ, MMAP, STAT, LOCK, SEND, SOCKET, ACCEPT, CONNECT, RECV, EPOLL, OPEN_OTHER, THREAD,
 ENTROPY, CHANGE_OTHER) = (1 << n for n in range(19))
LIE = 1000
CHANGES = OPEN | WRITE | SYNC | TRUNCATE | UNLINK
BEFORE, HALF, AFTER = range(3)
HOW = ("before", "half", "after")
FOREVER = (1 << 63) - 1
LIBRARIES = ("program", "sqlite3", "jansson", "crypto", "ssl", "microhttpd", "event", "curl", "unbound", "idn2", "pcre2", "libc", "gnutls", "gmp", "tasn1",
             "other")
FIELDS = ("mask", "calls", "kill_at", "kill_how", "fail_at", "fail_count", "fail_errno", "failed", "alloc_libraries", "allocs",
          "alloc_fail_at", "alloc_fail_count", "alloc_failed", "alloc_most_bytes", "last_failed_alloc_library", "killed_in")


class Control:
    def __init__(self, path, **values):
        self.path = path
        with open(path, "wb") as f:
            f.write(bytes(8 * len(FIELDS)))
        fd = os.open(path, os.O_RDWR)
        self.page = mmap.mmap(fd, 8 * len(FIELDS))
        os.close(fd)
        self.set(**values)

    def set(self, **values):
        for name, value in values.items():
            struct.pack_into("<Q", self.page, 8 * FIELDS.index(name), value)

    def get(self, name):
        return struct.unpack_from("<Q", self.page, 8 * FIELDS.index(name))[0]

    def close(self):
        self.page.close()

    def env(self, shim, store):
        return {"SHIM_CONTROL": self.path, "SHIM_FOLDER": store, "LD_PRELOAD": shim}

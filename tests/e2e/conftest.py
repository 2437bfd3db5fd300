"""Fixtures of the end-to-end tests. Started by tests/e2e/run, which makes the private world they live in."""

import contextlib
import itertools
import os

import pytest

from peers.certs import trusted_authority
from peers.dns import Dns, free_address
from peers.postchute import Postchute

if "E2E_DIR" not in os.environ:
    pytest.exit("these tests need a network of their own: start them with tests/e2e/run", returncode=2)

_numbers = itertools.count(500)


def pytest_runtestloop(session):
    """With E2E_SHARE, a folder: runs the files that no other pytest has taken there. Each has a world of its own."""
    share = os.environ.get("E2E_SHARE")
    if not share or session.config.option.collectonly or session.testsfailed:
        return None  # as usual
    files = {}
    for item in session.items:
        files.setdefault(item.nodeid.split("::")[0], []).append(item)
    for name, items in files.items():
        try:
            os.mkdir(os.path.join(share, name.replace("/", "%")))
        except FileExistsError:
            continue
        other = next((items for taken, items in files.items() if taken != name), [None])
        # a test of another file comes next: fixtures of the session live on
        for item, after in zip(items, items[1:] + other[:1]):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    return True


@pytest.fixture(scope="session")
def ca():
    """The authority that programs in this world trust."""
    return trusted_authority()


@pytest.fixture
def address():
    """A fresh address of the public-looking network, as a function."""
    return lambda: free_address(next(_numbers))


@pytest.fixture(scope="session")
def _tree():
    with Dns() as tree:
        yield tree


@pytest.fixture
def tree(_tree):
    """The signed DNS tree, running; zones that a test adds stay until the end, so names are each test's own."""
    return _tree


@pytest.fixture
def postchute():
    """A function that makes and starts servers; they are stopped, and their logs judged, when the test ends."""
    with contextlib.ExitStack() as servers:  # all of them, also when one has a fault

        def make(start=True, **settings):
            server = Postchute(**settings)
            servers.callback(lambda: server.stop())
            return server.start() if start else server

        yield make


@pytest.fixture
def cleanly():
    """Starts peers for the length of a test: cleanly(Sink(...))."""
    with contextlib.ExitStack() as started:

        def start(peer):
            started.callback(peer.stop)
            return peer.start()

        yield start

"""Starting programs, waiting for events instead of sleeping, and ending what was started."""

import os
import pathlib
import signal
import socket
import subprocess
import time


def scratch(name):
    """A fresh folder that servers running as other users can reach."""
    base = pathlib.Path(os.environ["E2E_DIR"]) / "run"
    base.mkdir(mode=0o755, exist_ok=True)
    number = 1
    while True:
        path = base / f"{name}-{number}"
        try:
            path.mkdir(mode=0o755)
            return path
        except FileExistsError:
            number += 1


def wait_until(question, what, timeout=20.0, every=0.01):
    """Asks `question` until its answer is true, and returns that answer; names `what` when time is up."""
    end = time.monotonic() + timeout
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() >= end:
            raise AssertionError(f"waited {timeout:g} s in vain: {what}")
        time.sleep(every)


def accepts(address, port):
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def check(*command, **options):
    """Runs a command that has to succeed; its output becomes the failure's text otherwise."""
    options.setdefault("timeout", 60)
    done = subprocess.run(
        [str(part) for part in command],
        stdin=options.pop("stdin", subprocess.DEVNULL) if "input" not in options else None,
        capture_output=True,
        text=True,
        **options,
    )
    if done.returncode != 0:
        raise AssertionError(f"{command} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Process:
    """A server in a process group of its own, with its output in a file."""

    def __init__(self, command, log, env=None, cwd=None, user=None):
        self.log_path = pathlib.Path(log)
        self.command = [str(part) for part in command]
        with open(self.log_path, "ab") as out:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                start_new_session=True,
            )

    def wait_ready(self, question, what, timeout=30.0):
        def ready():
            if self.popen.poll() is not None:
                raise AssertionError(
                    f"{self.command[0]} ended with {self.popen.returncode} while starting:\n{self.log()}"
                )
            return question()

        try:
            return wait_until(ready, what, timeout)
        except AssertionError as failure:
            self.kill()
            raise AssertionError(f"{failure}\n{self.log()}") from None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def stop(self, with_signal=signal.SIGTERM, timeout=20.0):
        """Ends it and returns the exit status; what remains of its group is killed."""
        status = None
        if self.popen.poll() is None:
            self.popen.send_signal(with_signal)
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.command[0]} did not stop in {timeout:g} s:\n{self.log()}") from None
        self.kill()
        return status

    def kill(self):
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.popen.wait()

import signal
import subprocess
import sys
import threading
import time

import pytest

from siammae.cli import main
from siammae.cli.interrupting import interruptible

# A computation of minutes outside the interpreter, which lets other threads run and no signal in.
_DEEP = """
import hashlib
from siammae.cli import main
from siammae.cli.interrupting import interruptible
with interruptible(0.2):
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 1_000_000_000)
"""


def test_interrupt_within_a_long_operation_ends_the_process_soon():
    process = subprocess.Popen([sys.executable, "-c", _DEEP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert (process.returncode, error) == (130, "\nsiammae: stopped within a long operation\n")
    finally:
        process.kill()


def test_interrupt_that_python_hears_is_raised_and_everything_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible(0.1):
        signal.raise_signal(signal.SIGINT)
    time.sleep(0.3)  # longer than it has patience
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_interrupt_that_comes_out_as_another_error_still_ends_as_one(monkeypatch, capsys):
    def run(args):
        with interruptible():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as stop:
                raise ValueError("what a library made of it") from stop

    monkeypatch.setattr("siammae.cli.models.run", run)
    assert main(["models"]) == 130
    assert capsys.readouterr().err.strip() == "siammae: stopped"


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and "&" leave it
    try:
        with interruptible(0.1):
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_interruptible_outside_the_main_thread_does_nothing():
    def enter():
        with interruptible():
            done.append(True)

    done = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert done == [True]


def test_interrupt_while_the_command_loads_ends_it_without_a_traceback():
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'siammae.cli.endings': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from siammae.cli import main"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")

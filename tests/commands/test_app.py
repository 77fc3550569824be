"""app.py as a process: where it listens, what it leaves, load, and flags that are refused."""

import json
import re
import signal
import socket
import threading
import urllib.error
import urllib.request

import pytest

from tests.drivers.app_load import measure
from tests.support.photographs import png
from tests.support.ranks import as_command
from tests.support.small_runs import BACKBONE, command, run, start, write_model_config

pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

from page.scratch import PREFIX  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def arguments(tmp_path):
    backbone = [word for word in BACKBONE if word not in ("--workers", "0")]
    return ["--model-config", str(write_model_config(tmp_path / "configs")), *backbone]


def opened(process):
    """The address that app.py prints."""
    for line in process.stderr:
        if found := re.search(r"open (http://127\.0\.0\.1:\d+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found[1]
    raise AssertionError(f"app.py ended with {process.wait()}")


@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_it_listens_on_loopback_alone_and_leaves_nothing(arguments, tmp_path, monkeypatch, number):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start("app", [*arguments, "--port", "0"])
    try:
        address = opened(process)
        assert urllib.request.urlopen(address, timeout=10).status == 200
        request = urllib.request.Request(f"{address}/sessions", method="POST")
        name = json.load(urllib.request.urlopen(request, timeout=10))["name"]
        body = png(size=(300, 250))
        urllib.request.urlopen(
            urllib.request.Request(f"{address}/sessions/{name}/references?name=a", body), timeout=10
        )
        assert len(list(tmp_path.glob(f"{PREFIX}*/{name}/*.upload"))) == 1
        port = int(address.rsplit(":", 1)[1])
        for other in {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None)} - {
            "127.0.0.1"
        }:
            with pytest.raises(OSError):
                socket.create_connection((other, port), timeout=2).close()
        process.send_signal(number)
        assert process.wait(5) == 128 + number
    finally:
        process.kill()
    assert not list(tmp_path.glob(f"{PREFIX}*")), "uploads are gone at exit"


@pytest.mark.slow
def test_eight_visitors_for_some_seconds():
    """The short version of `python tests/drivers/app_load.py`."""
    result = measure(8, 3)
    assert result["errors"] == 0 and result["visits"] >= 1 and result["left_behind"] == 0, result
    reported = [line for line in result["log"] if " s left" not in line]  # of learning, on a slow machine
    assert result["exit_code"] == 130 and len(reported) == 1, result["log"]


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_sentence(arguments):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, reported = run("app", [*arguments, "--port", str(taken.getsockname()[1])])
    assert code == 2 and "cannot be had" in reported and "Traceback" not in reported


def test_flags_that_are_refused(arguments, tmp_path, capsys):
    for more, sentence in (
        (["--port", "99999"], "--port"),
        (["--max-upload", "0"], "--max-upload"),
        (["--save-detector", "x"], "there is no --save-detector"),
        (["--detector", "x", "--method", "both"], "does not go with"),
        (["--host", "0.0.0.0"], "lets other machines in: also give --token SECRET"),
        (["--host", "0.0.0.0", "--token", "short"], "--token: needs 16 or more"),
        (["--host", "no such host"], "--host"),
        (["--references", str(tmp_path / "nowhere")], "nowhere"),
    ):
        with pytest.raises(SystemExit) as ended:
            as_command(command("app").main, [*arguments, *more])
        reported = capsys.readouterr().err
        assert ended.value.code == 2 and sentence in reported and "Traceback" not in reported, reported


@pytest.mark.slow
def test_others_are_let_in_by_a_token(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    secret = "a long enough secret"
    process = start("app", [*arguments, "--port", "0", "--host", "0.0.0.0", "--token", secret])
    try:
        line = next(line for line in process.stderr if "open http://" in line)
        assert "/?token=..." in line and secret not in line
        port = re.search(r":(\d+)/", line)[1]
        address = f"http://{socket.gethostbyname(socket.gethostname())}:{port}"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address, timeout=10)
        proven = urllib.request.Request(address, headers={"Authorization": f"Bearer {secret}"})
        assert b"<html" in urllib.request.urlopen(proven, timeout=10).read()
        process.send_signal(signal.SIGINT)
        reported = process.communicate(timeout=10)[1]
        assert (
            "the same command opens it again" in reported
            and secret not in reported
            and "--token ..." in reported
        )
    finally:
        process.kill()


@pytest.mark.slow
def test_idle_connections_shut_nobody_out(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process, idle = start("app", [*arguments, "--port", "0"]), []
    try:
        address = opened(process)
        port = int(address.rsplit(":", 1)[1])
        for number in range(150):
            idle.append(socket.create_connection(("127.0.0.1", port), timeout=5))
            if number % 2:
                idle[-1].sendall(b"GET / HTTP/1.1\r\nHost: 127")  # and never the rest
        assert urllib.request.urlopen(address, timeout=10).status == 200
    finally:
        for connection in idle:
            connection.close()
        process.kill()
        process.wait()

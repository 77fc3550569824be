"""deploy/serve.py: the same rows over HTTP, with several who ask at once, and for hostile requests."""

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.support.constants import ROOT
from tests.support.exported import exported_to
from tests.support.photographs import texture
from tests.support.predictions import rows

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

from deploy.serve_command import parse, serve  # noqa: E402
from deploy.service import Refusal, Service  # noqa: E402

SECRET = "a-secret-of-24-characters"


def png(seed, defect=False, **kind):
    stream = io.BytesIO()
    Image.fromarray(texture(seed, defect)).save(stream, kind.get("format", "PNG"))
    return stream.getvalue()


@pytest.fixture(scope="module")
def programs(place, tiny_configs, tmp_path_factory):
    """A folder with part.onnx and what export.py writes beside it."""
    folder = tmp_path_factory.mktemp("programs")
    exported_to(folder, place / "good", tiny_configs)
    return folder


class Running:
    """A service in a process of its own, on a free port."""

    def __init__(self, folder, *flags, **more):
        command = [
            sys.executable,
            "serve.pyz",
            "part.onnx",
            "--port",
            "0",
            "--threads",
            "1",
            *map(str, flags),
        ]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, **more)
        first = self.process.stderr.readline()
        self.port = int(re.search(r":(\d+)/inspect", first)[1])

    def ask(self, path="/inspect", body=None, method=None, **headers):
        """(status, headers, body) of one request."""
        with_dashes = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, with_dashes)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def row(self, content, name="a.png"):
        status, _, body = self.ask(f"/inspect?name={name}", content)
        assert status == 200, body
        return json.loads(body)

    def health(self):
        return json.loads(self.ask("/health")[2])

    def raw(self, request):
        """What is answered to bytes that need not be a request."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as line:
            line.sendall(request)
            line.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := line.recv(65536):
                answer += piece
        return answer

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        _, reported = self.process.communicate(timeout=60)
        return self.process.returncode, reported


@pytest.fixture(scope="module")
def service(programs):
    running = Running(programs)
    yield running
    code, reported = running.stop()
    assert code == 143 and "fault" not in reported


def test_a_row_is_that_of_inspect_and_the_map_a_picture(service, programs, tmp_path):
    (tmp_path / "a.png").write_bytes(png(5, defect=True))
    command = [sys.executable, "inspect.pyz", "part.onnx", str(tmp_path / "a.png"), "--format", "json"]
    done = subprocess.run(command, cwd=programs, capture_output=True, text=True, check=True, timeout=60)
    assert service.row(png(5, defect=True)) == json.loads(done.stdout)
    status, headers, body = service.ask("/inspect?map=png&name=a.png", png(5, defect=True))
    assert status == 200 and headers["Content-Type"] == "image/png"
    assert json.loads(headers["X-Row"]) == json.loads(done.stdout)
    assert Image.open(io.BytesIO(body)).size == (80, 60)


def test_names_are_escaped(service):
    assert service.row(png(1), "%0d%0aX-Evil:%201")["image"] == "\\r\\nX-Evil: 1"
    _, headers, _ = service.ask("/inspect?map=png&name=%0d%0aX-Evil:%201", png(1))
    assert "X-Evil" not in headers


def bomb():
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    return stream.getvalue()


NO_PHOTOGRAPHS = {
    "text": b"no photograph",
    "zeros": bytes(100_000),
    "cut": png(1)[:300],
    "damaged": png(1)[:200] + bytes(50) + png(1)[250:],
    "bomb": bomb(),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "json": b'{"image": "aGVsbG8="}',
    "noise": np.random.default_rng(0).bytes(20_000),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("kind", NO_PHOTOGRAPHS)
def test_a_body_that_is_no_photograph_is_refused_in_a_sentence(service, kind):
    status, _, body = service.ask(body=NO_PHOTOGRAPHS[kind])
    assert status == 422 and 10 < len(json.loads(body)["error"]) < 300
    assert service.row(png(1))["score"] >= 0


@pytest.mark.parametrize(
    "request_, status",
    [
        (b"POST /inspect HTTP/1.1\r\nHost: localhost\r\n\r\n", 411),
        (b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9e9\r\n\r\n", 411),
        (
            b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            411,
        ),
        (b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 400),
        (b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nshort", 400),
        (b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000), 413),
        (b"POST /inspect?map=svg HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na", 400),
        (
            b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 1\r\n\r\na",
            415,
        ),
        (b"GET /inspect HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"DELETE /inspect HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
        (b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n", 403),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /health HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n", 431),
        (b"no request at all\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
    ],
)
def test_hostile_requests_are_refused_in_a_sentence(service, request_, status):
    answer = service.raw(request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f" {status} " in f"{head.splitlines()[0].decode()} " or answer.startswith(b'{"error"')
    assert json.loads(body or answer)["error"]
    assert service.health()["status"] == "ok"


def test_who_goes_away_in_the_middle_of_a_body_leaves_no_place_taken(service):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as line:
            line.sendall(b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nhalf")
    assert service.row(png(1))["score"] >= 0
    assert service.health()["waiting"] == 0


def test_beyond_the_queue_it_is_503_and_then_there_is_room_again(programs):
    running = Running(programs, "--queue", 2)
    head = b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(png(1))
    slow = [socket.create_connection(("127.0.0.1", running.port), timeout=60) for _ in range(2)]
    for line in slow:
        line.sendall(head + png(1)[:10])
    while running.health()["waiting"] < 2:
        pass
    status, headers, body = running.ask(body=png(1))
    assert status == 503 and headers["Retry-After"] == "1" and "2 photographs are in work" in body.decode()
    for line in slow:
        line.sendall(png(1)[10:])
        assert b" 200 " in line.recv(65536).splitlines()[0]
        line.close()
    assert running.row(png(1))["score"] >= 0
    assert running.stop(signal.SIGINT)[0] == 130


def test_who_asks_again_and_again_is_refused_once_it_ends(programs):
    running, refused = Running(programs), []

    def ask():
        line = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        while True:
            try:
                line.request("POST", "/inspect", png(1))
                answer = line.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                return
            if answer.status != 200:
                refused.append((answer.status, answer.headers["Connection"]))
                return

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for client in clients:
        client.start()
    while running.health()["inspected"] < 16:
        pass
    code, reported = running.stop()
    for client in clients:
        client.join(60)
    assert code == 143 and "Ending when the photographs in work have their answers" in reported
    assert "no answer" not in reported and set(refused) <= {(503, "close")}


def test_it_ends_in_time_whatever_is_in_work(monkeypatch, logged):
    monkeypatch.setattr("deploy.serve_command.LAST_SECONDS", 0.2)
    service = Service(SimpleNamespace(statistics=np.empty((0, 4))), 2)
    with service.place():
        service.ending.set()
        serve(service, "127.0.0.1", 0, None, 2**20)
        with pytest.raises(Refusal, match="it is ending"), service.place():
            pass
    assert "1 photograph(s) had no answer within 0.2 s" in logged()


def test_several_at_once_get_each_their_own_row_and_none_is_lost(programs, tmp_path):
    """A short run of tests/drivers/service_load.py."""
    running = Running(programs, "--output", tmp_path / "out")
    photographs = {f"{seed}.png": png(seed, defect=seed % 2 == 1) for seed in range(4)}
    wanted = {name: running.row(content, name) for name, content in photographs.items()}
    lost = []

    def ask(client):
        for turn in range(8):
            name = f"{(client + turn) % 4}.png"
            if running.row(photographs[name], name) != wanted[name]:
                lost.append(name)

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(120)
    assert lost == [] and running.health()["inspected"] == 4 + 64
    assert running.stop()[0] == 143
    assert (
        len(rows(tmp_path / "out/scores.csv"))
        == len((tmp_path / "out/scores.jsonl").open().readlines())
        == 68
    )


def test_photographs_that_change_as_a_whole_are_reported_also_after_a_restart(programs, tmp_path):
    running = Running(programs, "--output", tmp_path / "out")
    for number in range(100):
        if number == 60:
            running.stop()
            running = Running(programs, "--output", tmp_path / "out")
        dark = Image.fromarray((texture(number % 5) * (0.7 if number >= 50 else 1)).astype(np.uint8))
        stream = io.BytesIO()
        dark.save(stream, "PNG")
        running.row(stream.getvalue(), f"{number}.png")
        if number == 98:
            assert running.health()["drift"] == []
    for number in range(100, 110):
        running.row(stream.getvalue(), f"{number}.png")
    assert "darker" in running.health()["drift"]
    logged = running.stop()[1]
    assert logged.count("are darker than the references and the first 50") == 1
    assert int(re.search(r"see (\d+)\.png", logged)[1]) >= 50


def test_with_a_token_nobody_else_is_answered(programs):
    running = Running(programs, env={"FDSL_TOKEN": SECRET, "PATH": ""})
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": SECRET[:-1]}):
        status, _, body = running.ask("/inspect", png(1), **headers)
        assert status == 401 and SECRET not in body.decode()
    status, _, _ = running.ask("/inspect", png(1), Authorization=f"Bearer {SECRET}", Host="camera.example")
    assert status == 200
    assert running.ask("/health")[0] == 200  # a container's own check, from this machine
    assert SECRET not in running.stop()[1]


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--host", "0.0.0.0"], "lets other machines in: give --token"),
        (["--host", "camera"], "is no address in digits"),
        (["--host", "0.0.0.0", "--token", "short"], "at least 16"),
        (["--queue", "0"], "is not a whole number from 1"),
        (["--port", "65536"], "is not a whole number from 0 to 65535"),
        (["--threshold", "nan"], "is not a finite number"),
    ],
)
def test_flags_that_are_refused(flags, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["part.onnx", *flags])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in error and error.count("\n") == 1


def test_a_port_that_is_taken_is_one_sentence(programs, service):
    command = [sys.executable, "serve.pyz", "part.onnx", "--port", str(service.port)]
    done = subprocess.run(command, cwd=programs, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "cannot be had" in done.stderr and done.stderr.count("\n") == 1


def test_the_image_runs_what_export_writes_without_root(programs, monkeypatch):
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    given = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    copied = " ".join(words for name, words in given if name == "COPY").split()
    for name in copied:
        if name.endswith("/"):
            continue  # where it goes
        assert list(programs.glob(name)) or (ROOT / "deploy" / name).is_file()
    (user,) = (words for name, words in given if name == "USER")
    assert int(user) > 0
    (entry,) = (json.loads(words) for name, words in given if name == "ENTRYPOINT")
    monkeypatch.setenv("FDSL_TOKEN", SECRET)
    assert entry[:2] == ["python", "serve.pyz"] and parse(entry[2:]).host == "0.0.0.0"
    (port,) = (int(words) for name, words in given if name == "EXPOSE")
    (check,) = (words for name, words in given if name == "HEALTHCHECK")
    assert f":{port}/health" in check and parse(entry[2:]).port == port

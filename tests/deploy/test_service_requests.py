"""What the service answers to hostile requests, and to whom."""

import io
import json
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tests.support.running_service import SECRET, Running, png

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

pytestmark = pytest.mark.slow


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


def test_with_a_token_nobody_else_is_answered(programs):
    running = Running(programs, env={"FDSL_TOKEN": SECRET, "PATH": ""})
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": SECRET[:-1]}):
        status, _, body = running.ask("/inspect", png(1), **headers)
        assert status == 401 and SECRET not in body.decode()
    status, _, _ = running.ask("/inspect", png(1), Authorization=f"Bearer {SECRET}", Host="camera.example")
    assert status == 200
    assert running.ask("/health")[0] == 200  # a container's own check, from this machine
    assert SECRET not in running.stop()[1]


def test_a_head_that_trickles_in_holds_no_connection_for_long(monkeypatch):
    """Each byte comes in time, and the head never ends."""
    from deploy import http_server

    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.5)
    server = http_server.Server(("127.0.0.1", 0), None, None, 100)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_connection(server.server_address, timeout=5) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nX: ")
        begun = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - begun < 5:
                line.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - begun < 4
    server.shutdown()
    server.server_close()

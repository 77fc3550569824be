"""deploy/serve.py: the same rows over HTTP, with several who ask at once, until it is asked to end."""

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

from tests.support.photographs import texture
from tests.support.predictions import rows
from tests.support.running_service import Running, png

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

from deploy.serve_command import serve  # noqa: E402
from deploy.service import Refusal, Service  # noqa: E402

pytestmark = pytest.mark.slow


def test_a_row_is_that_of_inspect_and_the_map_a_picture(service, programs, tmp_path):
    (tmp_path / "a.png").write_bytes(png(5, defect=True))
    command = [sys.executable, "inspect.pyz", "part.onnx", str(tmp_path / "a.png"), "--format", "json"]
    done = subprocess.run(command, cwd=programs, capture_output=True, text=True, check=True, timeout=60)
    assert service.row(png(5, defect=True)) == json.loads(done.stdout)
    status, headers, body = service.ask("/inspect?map=png&name=a.png", png(5, defect=True))
    assert status == 200 and headers["Content-Type"] == "image/png"
    assert json.loads(headers["X-Row"]) == json.loads(done.stdout)
    assert Image.open(io.BytesIO(body)).size == (80, 60)


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


def test_a_port_that_is_taken_is_one_sentence(programs, service):
    command = [sys.executable, "serve.pyz", "part.onnx", "--port", str(service.port)]
    done = subprocess.run(command, cwd=programs, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "cannot be had" in done.stderr and done.stderr.count("\n") == 1

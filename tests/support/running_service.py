"""deploy/serve.py as a process of its own, and who asks it."""

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys

from PIL import Image

from tests.support.photographs import texture

SECRET = "a-secret-of-24-characters"


def png(seed, defect=False, **kind):
    stream = io.BytesIO()
    Image.fromarray(texture(seed, defect)).save(stream, kind.get("format", "PNG"))
    return stream.getvalue()


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

"""A ComfyUI server without ComfyUI, for the tests of a batch: it answers, draws flat pictures, fails and
talks as told."""

import base64
import hashlib
import json
import re
import struct
import threading
import time
import urllib.parse
import uuid
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

from PIL import Image


class FakeComfy:
    """The routes of a ComfyUI that a batch needs. A job draws two pictures named after its seed, in
    ``seconds`` and not as long as its seed is on ``hold``.

    A prompt "explode" fails while it runs, a cfg of 0 is refused; with ``talks`` there is a websocket.
    """

    def __init__(self, seconds: float = 0.0, talks: bool = False, port: int = 0):
        self.seconds, self.talks, self.port = seconds, talks, port
        self.prompts, self.uploads, self.listeners, self.taken_back, self.hold = [], [], [], [], set()
        self.start()

    def start(self, jobs: dict | None = None) -> None:
        self.jobs = jobs or {}               # prompt id: (graph, when it ends); a restart forgets them
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                fake.get(self)

            def do_POST(self):
                fake.post(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def cancel(self, seed: int) -> None:
        """What a person does in the browser: a job that waits is gone, one that runs ends in the history as
        interrupted."""
        number = next(n for n, (graph, _) in self.jobs.items() if graph["3"]["inputs"]["seed"] == seed)
        running = next(n for n in self.jobs if not self.ended(n)) == number
        graph, _ = self.jobs.pop(number)
        if running:
            self.jobs[number] = (
                {**graph, "2": {"inputs": {"text": "stopped"}}, "3": {"inputs": {"seed": -1}}},
                0.0,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ended(self, number: str) -> bool:
        graph, end = self.jobs[number]
        return time.monotonic() >= end and graph["3"]["inputs"]["seed"] not in self.hold

    def get(self, request) -> None:
        path, _, query = request.path.partition("?")
        query = dict(urllib.parse.parse_qsl(query))
        if path.startswith("/history/"):
            number = path.rpartition("/")[2]
            ended = number in self.jobs and self.ended(number)
            answer(request, {number: entry_of(number, self.jobs[number][0])} if ended else {})
        elif path == "/queue":
            waiting = [[0, number, {}, {}, []] for number in self.jobs if not self.ended(number)]
            answer(request, {"queue_running": waiting[:1], "queue_pending": waiting[1:]})
        elif path == "/view":
            shade = int(re.match(r"seed(\d+)", query["filename"])[1])
            assert (query["type"], query["subfolder"]) == ("output", "sub")
            answer(request, png(shade))
        elif path == "/ws" and self.talks:
            self.talk(request, query["clientId"])
        else:
            answer(request, {}, 404)

    def post(self, request) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if request.path == "/upload/image":
            parts = BytesParser().parsebytes(
                b"Content-Type: " + request.headers["Content-Type"].encode() + b"\r\n\r\n" + body
            )
            name = next(p.get_filename() for p in parts.get_payload() if p.get_filename())
            self.uploads.append(name)
            return answer(request, {"name": name, "subfolder": "in", "type": "input"})
        body = json.loads(body)
        if request.path in ("/queue", "/interrupt"):
            self.taken_back += body.get("delete", [body.get("prompt_id")])
            return answer(request, {})
        for name in ("prompt_id", "client_id"):
            assert body[name] == str(uuid.UUID(body[name])), "canonical, lower case"
        self.prompts.append(body)
        if body["prompt"]["3"]["inputs"]["cfg"] == 0:
            errors = {
                "3": {
                    "errors": [{"message": "Value 0 smaller than min of 1", "details": "cfg"}],
                    "class_type": "KSampler",
                }
            }
            return answer(
                request,
                {"error": {"message": "Prompt outputs failed validation"}, "node_errors": errors},
                400,
            )
        self.jobs[body["prompt_id"]] = body["prompt"], time.monotonic() + self.seconds
        return answer(request, {"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})

    def talk(self, request, client: str) -> None:
        """The server's side of a websocket: two messages for each job of the client, the end among them."""
        key = request.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        request.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(hashlib.sha1(key.encode()).digest()) + b"\r\n\r\n"
        )
        self.listeners.append(client)
        told = set()
        try:
            while self.talks:
                time.sleep(0.01)
                for number in list(self.jobs):
                    for kind, due, data in (("progress", True, {"node": "3", "value": 4, "max": 8}),
                                            ("executing", self.ended(number), {"node": None})):
                        if due and (number, kind) not in told:
                            told.add((number, kind))
                            frame = json.dumps({"type": kind, "data": {**data, "prompt_id": number}}).encode()
                            request.wfile.write(
                                b"\x82\x03abc" + b"\x81\x7e" + struct.pack(">H", len(frame)) + frame
                            )
        except OSError:
            pass
        request.close_connection = True


def answer(request, content, status: int = 200) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def entry_of(number: str, graph: dict) -> dict:
    """The history of a job that has ended."""
    if graph["2"]["inputs"]["text"] == "explode":
        error = {"node_id": "2", "node_type": "CLIPTextEncode", "exception_message": "no such\ntoken"}
        return {
            "outputs": {},
            "status": {"status_str": "error", "completed": False, "messages": [["execution_error", error]]},
        }
    if graph["2"]["inputs"]["text"] == "stopped":
        messages = [["execution_interrupted", {"node_id": "3", "node_type": "KSampler", "executed": []}]]
        return {"outputs": {}, "status": {"status_str": "error", "completed": False, "messages": messages}}
    seed = graph["3"]["inputs"]["seed"]
    images = [{"filename": f"seed{seed + i}_.png", "subfolder": "sub", "type": "output"} for i in range(2)]
    outputs = {
        "3": {"images": [{"filename": "preview.png", "subfolder": "", "type": "temp"}]},
        "save": {"images": images},
    }
    return {
        "outputs": outputs,
        "status": {"status_str": "success", "completed": True, "messages": []},
        "prompt": [1, number],
    }


def png(shade: int) -> bytes:
    file = BytesIO()
    Image.new("L", (4, 4), shade).save(file, "PNG")
    return file.getvalue()

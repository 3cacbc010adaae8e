"""A server of everything that a source can fetch: JSON, CSV, Prometheus' text by its own library, event streams, WebSockets.

Arguments: the port of HTTP and the port of WebSockets. Prints a line when it listens. Ends with its stdin.
"""

import json
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import prometheus_client
from websockets.sync.server import serve

state = {"v": 0, "status": 200, "asked": 0, "not_modified": 0}
registry = prometheus_client.CollectorRegistry()
temperature = prometheus_client.Gauge("room_temperature_celsius", "Of the air.", ["room"], registry=registry)
temperature.labels(room="lab").set(21.5)
temperature.labels(room='a "b"\\c').set(-3)
requests = prometheus_client.Counter("requests", "How often it was asked.", registry=registry)
latency = prometheus_client.Histogram("latency_seconds", "Of answers.", buckets=(0.1, 1), registry=registry)
latency.observe(0.05)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        """Changes what the others answer: /v/7, /status/500."""
        _, key, value = self.path.split("/")
        state[key] = int(value)
        self.answer("text/plain", b"")

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query))
        state["asked"] += 1
        if state["status"] != 200 and url.path != "/seen":
            return self.answer("text/plain", b"no", status=state["status"])
        if url.path == "/seen":
            return self.answer("application/json", json.dumps(state).encode())
        if url.path == "/state":
            tag = f'"{state["v"]}"'
            if self.headers.get("If-None-Match") == tag:
                state["not_modified"] += 1
                return self.answer("application/json", b"", {"ETag": tag}, status=304)
            tagged = {"ETag": tag} if "etag" in asked else {}
            return self.answer("application/json", json.dumps({"v": state["v"]}).encode(), tagged)
        if url.path == "/stations":
            stations = [{"station": name, "temperature": state["v"] + n / 2, "ts": now()} for n, name in enumerate("abc")]
            return self.answer("application/json", json.dumps({"ok": True, "data": {"items": stations}}).encode())
        if url.path == "/table":
            return self.answer("text/csv", b"station,level\na,1.5\nb,2\n")
        if url.path == "/metrics":
            requests.inc()
            return self.answer(prometheus_client.CONTENT_TYPE_LATEST, prometheus_client.generate_latest(registry))
        if url.path == "/events":
            return self.events(int(asked.get("end", 1_000_000)), float(asked.get("rate", 100)))
        self.answer("text/plain", b"nothing here", status=404)

    def answer(self, kind, body, headers={}, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def events(self, end, rate):
        """Events numbered from 1, from behind the id that the client names; when all are sent it only keeps alive."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        number = int(self.headers.get("Last-Event-ID", 0))
        try:
            self.wfile.write(b"retry: 50\n\n")
            while True:
                batch = max(1, int(rate / 100))
                for number in range(number + 1, min(number + batch, end) + 1):
                    kind = "price" if number % 2 else "trade"
                    data = json.dumps({"n": number, "station": "abc"[number % 3], "ts": now()})
                    self.wfile.write(f"id: {number}\nevent: {kind}\ndata: {data}\n\n".encode())
                if number >= end:
                    self.wfile.write(b": nothing new\n\n")
                self.wfile.flush()
                time.sleep(0.1 if number >= end else batch / rate)
        except OSError:
            self.close_connection = True


def now():
    return int(time.time() * 1000)


def talk(socket):
    """Says numbers to who has subscribed, for ever."""
    if json.loads(socket.recv()) != {"op": "subscribe"}:
        return socket.close(1008, "subscribe first")
    number = 0
    while True:
        number += 1
        socket.send(json.dumps({"n": number, "station": "abc"[number % 3], "ts": now()}))
        time.sleep(0.01)


def main():
    http_port, websocket_port = (int(port) for port in sys.argv[1:3])
    http = ThreadingHTTPServer(("127.0.0.1", http_port), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    websocket = serve(talk, "127.0.0.1", websocket_port)
    threading.Thread(target=websocket.serve_forever, daemon=True).start()
    print("listening", flush=True)
    sys.stdin.read()


main()

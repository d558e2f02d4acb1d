"""Proxies on loopback that break answers the way networks and overloaded servers do."""

import http.client
import http.server
import json
import threading

CONNECTIONS_WAITING_MAX = 256
ANSWER_SECONDS_MAX = 30
HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


def drop_every_third(number):
    """Forwards every request, and closes the connection instead of answering every third."""
    return "forward and drop" if number % 3 == 0 else "forward"


def refuse_first(number):
    """Refuses the first six requests by turns.

    The 500 comes after the request was forwarded: the worst case, in which the events are
    stored and the client is told to send them again.
    """
    if number > 6:
        return "forward"
    return "429" if number % 2 == 1 else "forward and 500"


class Proxy:
    """Forwards to Beckon. `behaviour` says for each request, counted from 1, what becomes of it."""

    def __init__(self, host, port, behaviour):
        self.target = (host, port)
        self.behaviour = behaviour
        self.lock = threading.Lock()
        self.requests = 0
        self.broken = 0
        self.duplicates = 0
        self.complaints = []
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def next_behaviour(self):
        with self.lock:
            self.requests += 1
            chosen = self.behaviour(self.requests)
            self.broken += chosen != "forward"
            return chosen

    def note_answer(self, status, body):
        """Keeps count of what Beckon said was a duplicate, and of answers an SDK would not take."""
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        with self.lock:
            if status != 200 or not isinstance(answer, dict):
                self.complaints.append(f"{status}: {body[:300]!r}")
            else:
                self.duplicates += int(answer.get("duplicates") or 0)


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = CONNECTIONS_WAITING_MAX
    daemon_threads = True


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024
    timeout = ANSWER_SECONDS_MAX
    owner = None

    def do_POST(self):  # The name is the standard library's.
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        behaviour = self.owner.next_behaviour()
        if behaviour == "429":
            self.answer(429, b'{"success":false,"message":"slow down"}', {"Retry-After": "1"})
            return
        status, headers, answer = self.forward(body)
        if behaviour == "forward and drop":
            self.close_connection = True
        elif behaviour == "forward and 500":
            self.answer(500, b'{"success":false,"message":"out of order"}', {})
        else:
            self.answer(status, answer, headers)

    def forward(self, body):
        connection = http.client.HTTPConnection(*self.owner.target, timeout=ANSWER_SECONDS_MAX)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            answer = response.read()
            self.owner.note_answer(response.status, answer)
            kept = {k: v for k, v in response.getheaders() if k.lower() not in HOP_BY_HOP}
            return response.status, kept, answer
        except OSError as error:
            self.owner.note_answer(0, str(error).encode())
            return 502, {}, b"{}"
        finally:
            connection.close()

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing: what matters is counted."""

"""A completions server that behaves as the request's model says, well or badly."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    has_answered = False

    def do_GET(self):
        assert self.path == "/v1/models"
        self.send_whole(200, {"data": [{"id": "good"}]})

    def do_POST(self):
        length = int(self.headers["content-length"])
        request = json.loads(self.rfile.read(length))
        self.server.requests.append((self.path, dict(self.headers), request))
        self.server.connections.add(self.client_address)
        behaviour = getattr(self, request["model"].replace("-", "_"))
        behaviour(request["max_tokens"])

    def good(self, tokens):
        self.begin()
        for i in range(tokens):
            self.event({"choices": [{"text": f" {i}"}]})
        self.usage(tokens)
        self.done()

    def crlf(self, tokens):
        self.begin()
        for i in range(tokens):
            self.chunk(b'data: {"choices": [{"text": "%d"}]}\r\n\r\n' % i)
        self.chunk(b"data: [DONE]\r\n\r\n")
        self.chunk(b"")

    def two_tokens_an_event(self, tokens):
        self.begin()
        for i in range(0, tokens, 2):
            self.event({"choices": [{"text": f"{i} {i + 1}"}]})
        self.usage(tokens)
        self.done()

    def closes_each_time(self, tokens):
        self.begin(connection="close")
        self.event({"choices": [{"text": "a"}]})
        self.usage(tokens)
        self.done()
        self.close_connection = True

    def gives_up_idle_connections(self, tokens):
        """One answer a connection; the next request on it finds nobody."""
        if self.has_answered:
            self.close_connection = True
        else:
            self.has_answered = True
            self.good(tokens)

    def ends_with_a_finish_reason(self, tokens):
        self.begin()
        self.event({"choices": [{"text": "a"}]})
        self.event(
            {
                "choices": [{"text": "", "finish_reason": "length"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": tokens},
            }
        )
        self.chunk(b"")

    def refuses(self, tokens):
        self.send_whole(429, {"error": "Model is overloaded"})

    def fails_in_the_middle(self, tokens):
        self.begin()
        self.event({"choices": [{"text": "a"}]})
        self.event({"error": {"message": "the engine is gone", "type": "engine"}})
        self.done()

    def hangs_up(self, tokens):
        self.begin()
        self.event({"choices": [{"text": "a"}]})
        self.close_connection = True

    def forgets_the_end(self, tokens):
        self.begin()
        self.event({"choices": [{"text": "a"}]})
        self.chunk(b"")

    def never_answers(self, tokens):
        self.server.stopped.wait(30)

    def speaks_no_http(self, tokens):
        self.wfile.write(b"hello there\r\n\r\n")
        self.close_connection = True

    def begin(self, connection="keep-alive"):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("connection", connection)
        self.end_headers()

    def event(self, message):
        self.chunk(b"data: " + json.dumps(message).encode() + b"\n\n")

    def usage(self, tokens):
        self.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}})

    def done(self):
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def send_whole(self, status, message):
        body = json.dumps(message).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.connections = set()
        self.stopped = Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up is part of some tests."""


@pytest.fixture
def server():
    with Server() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.stopped.set()
        running.shutdown()
        thread.join()

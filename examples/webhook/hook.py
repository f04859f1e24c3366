"""The handler as a web hook: `python hook.py 8000`."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from echo import handler


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(handler(event, None)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)


HTTPServer(("127.0.0.1", int(sys.argv[1])), Hook).serve_forever()

"""The command as a process of its own."""

import http.client
import json
import os
import re
import time
import zlib


class Server:
    """A server in a process of its own."""

    def __init__(self, forks, log, *arguments, port=0):
        self.forks, self.log, self.code = forks, log, None
        argv = ["annotate", *map(str, arguments), "--no-browser", "--port", str(port), "--device", "cpu"]
        self.pid = forks({"argv": argv, "log": str(log)})
        while not (found := re.search(r"http://[^:]+:(\d+)/", self.printed("out"))):
            assert not self.printed("err"), self.printed("err")
            time.sleep(0.02)
        self.port = int(found[1])

    def printed(self, stream):
        path = self.log.with_name(f"{self.log.name}.{stream}")
        return path.read_text() if path.exists() else ""

    def ask(self, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request("GET" if body is None else "POST", path, data)
        answer = connection.getresponse()
        result = answer.read()
        connection.close()
        assert answer.status == 200, result
        return json.loads(result) if answer.headers["content-type"] == "application/json" else result

    def paint(self, frame, top, left, number, side=2):
        path = f"/api/frames/{frame}/paint?left={left}&top={top}&width={side}&height={side}"
        self.ask(path, zlib.compress(bytes([number]) * side * side))

    def end(self, number):
        """Send a signal; returns the exit code and what was said."""
        os.kill(self.pid, number)
        self.code = self.forks(self.pid)
        return self.code, self.printed("err")

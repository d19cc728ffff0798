"""The server against others: who may ask, what may be asked, and what an error says."""

import http.client
import json
import zlib

import numpy as np
import pytest

from siammae.annotate.security import is_loopback
from siammae.annotate.server import make_app
from siammae.annotate.serving import bind, serving
from tests.annotate.browsing import served
from tests.annotate.projects import draw, session, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return folder / "clip", write_clip(folder / "clip", 4)


@pytest.fixture
def server(clip, tmp_path):
    """A session and the port on which it is served."""
    with served(tmp_path / "p", clip[0]) as (opened, address):
        yield opened, int(address.rstrip("/").rpartition(":")[2])


def ask(port, path, body=None, *, method=None, **headers):
    """Ask as any program can; returns status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    connection.request(method or ("GET" if body is None else "POST"), path, data, names)
    answer = connection.getresponse()
    result = answer.status, dict(answer.headers), answer.read()
    connection.close()
    return result


def refused(port, path, body=None, **headers):
    """Ask for what must be refused; returns the status and the sentence."""
    status, got, data = ask(port, path, body, **headers)
    assert status >= 400
    assert got["content-type"] == "application/json"
    said = json.loads(data)
    assert list(said) == ["error"]
    assert "Traceback" not in said["error"]
    return status, said["error"]


def test_page_and_its_files_come_with_a_policy(server):
    _, port = server
    for path, kind in (("/", "text/html"), ("/page/main.js", "text/javascript"), ("/page/style.css", "text/css")):
        status, headers, body = ask(port, path)
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert len(body) > 500
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "10.0.0.7", "", "["])
@pytest.mark.parametrize("path", ["/", "/api/project", "/api/frames/0/image"])
def test_other_names_for_this_machine_are_refused(host, path, server):
    assert refused(server[1], path, Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8765"])
def test_tunnel_may_have_any_port(host, server):
    assert ask(server[1], "/api/project", Host=host)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_page_of_another_site_is_refused(headers, server):
    opened, port = server
    status, error = refused(port, "/api/objects", {"name": "x"}, **headers)
    assert (status, error) == (403, "this request comes from another site's page.")
    assert opened.things()["objects"] == []


def test_own_origin_is_let_in(server):
    opened, port = server
    host = f"127.0.0.1:{port}"
    assert ask(port, "/api/objects", {"name": "x"}, Origin=f"http://{host}", Host=host)[0] == 200
    assert [thing["name"] for thing in opened.things()["objects"]] == ["x"]


def test_link_from_elsewhere_may_open_the_page_only(server):
    _, port = server
    assert ask(port, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert refused(port, "/api/project", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py",
        "/page/..%2fserver.py",
        "/page/%2e%2e%2f%2e%2e%2fpyproject.toml",
        "/page//etc/passwd",
        "/page/__init__.py",
        "/api/exports/../project.json",
        "/api/exports/..%2fproject.json",
        "/api/exports/project.json",
        "/etc/passwd",
    ],
)
def test_no_path_from_the_browser_is_opened(path, server):
    assert refused(server[1], path)[0] == 404


def test_too_large_request_is_refused_before_it_is_taken(server):
    _, port = server
    status, error = refused(port, "/api/objects", b"x" * 3_000_000)
    assert status == 413
    assert "at most 2003072 are taken" in error


def test_packed_pixels_may_not_unpack_to_more_than_they_say(server):
    opened, port = server
    opened.project.describe(things=[opened.project.described.next_thing()])
    bomb = zlib.compress(bytes(50_000_000))
    status, error = refused(port, "/api/frames/0/paint?left=0&top=0&width=4&height=4", bomb)
    assert (status, error) == (400, "4 x 4 pixels were announced, others came.")
    for body, said in ((b"junk", "cannot be unpacked"), (zlib.compress(bytes(3)), "others came")):
        assert said in refused(port, "/api/frames/0/paint?left=0&top=0&width=4&height=4", body)[1]
    assert "are more than the frame has" in refused(port, "/api/frames/0/paint?left=0&top=0&width=9&height=60", bomb)[1]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/frames/4/image", None, 404, "no frame 4: the video has the frames 0 to 3"),
        ("/api/frames/999999999999999999999999/image", None, 404, "no frame 1000000000"),
        ("/api/frames/x/image", None, 404, "Not Found"),
        ("/api/frames/9/labels", None, 404, "no frame 9"),
        ("/api/frames/0/undo", {}, 400, "there is nothing to undo in this frame"),
        ("/api/frames/0/approve", {}, 400, "there is nothing in this frame to approve"),
        ("/api/frames/0/cut", {"object": 1, "box": [1, 2, 3]}, 400, "box must be 4 numbers"),
        ("/api/frames/0/cut", {"object": 1, "box": [0, 0, 9, 9]}, 400, "no object 1: there are none yet"),
        ("/api/frames/0/cut", {"object": "x"}, 400, "object must be a whole number from 1 to 254"),
        ("/api/frames/0/cut", {"object": True}, 400, "object must be a whole number from 1 to 254"),
        ("/api/frames/0/point", {"object": 1, "joint": 3}, 400, "joint must be a text"),
        ("/api/frames/0/point", {"object": 1, "joint": "a", "visibility": "?"}, 400, "must be visible, hidden, absent"),
        ("/api/objects", {"name": "a\nb"}, 400, "visible characters"),
        ("/api/objects", {"colour": "red"}, 400, "a colour must be #rrggbb"),
        ("/api/objects/7", {"name": "x"}, 400, "no object 7"),
        ("/api/joints", {"joints": ["a/b"]}, 400, "without a slash"),
        ("/api/joints", {"joints": "a"}, 400, "joints must be a list of texts"),
        ("/api/follow", {"frame": 0, "direction": "up"}, 400, "direction is 'up': it must be forward, backward, both"),
        ("/api/follow", {"frame": 0, "direction": "both"}, 400, "there is nothing to follow"),
        ("/api/export", {"format": "docx"}, 400, "no format 'docx': known are"),
        ("/api/export", {"format": "coco"}, 400, "there is nothing to export"),
        ("/api/export", {"format": "badja"}, 400, "badja is read but not written"),
        ("/api/exports/coco.json", None, 404, "there is no such export"),
        ("/api/objects", b"[1]", 400, "must be a JSON object"),
        ("/api/objects", b"{", 400, "is no JSON"),
        ("/api/objects", b"[" * 100_000, 400, "is no JSON"),
    ],
)
def test_every_mistake_is_one_sentence(path, body, status, message, server):
    got, error = refused(server[1], path, body)
    assert got == status
    assert message in error


def test_mistake_of_siammae_is_told_without_a_trace(server, monkeypatch, caplog):
    opened, port = server
    monkeypatch.setattr(opened, "overview", lambda: 1 / 0)
    assert refused(port, "/api/project") == (500, "internal error: ZeroDivisionError: division by zero")
    assert "ZeroDivisionError" in caplog.text  # the terminal has it


def test_other_machines_need_the_token(clip, tmp_path):
    with session(tmp_path / "p", clip[0]) as opened:
        listener = bind("127.0.0.1", 0)
        with serving(make_app(opened, host="0.0.0.0", token="secret"), listener):
            port = listener.getsockname()[1]
            for path, headers in (("/", {}), ("/?token=wrong", {}), ("/", {"Cookie": "siammae-token=wrong"})):
                assert refused(port, path, **headers)[0] == 401
            assert refused(port, "/api/project?token=secret")[0] == 401  # the address bar gives it once, for a cookie
            status, headers, _ = ask(port, "/?token=secret", Host="192.168.1.5:80")
            assert (status, headers["location"]) == (303, "/")
            cookie = headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert ask(port, "/api/project", Cookie=cookie.partition(";")[0])[0] == 200
            assert refused(port, "/api/project", Cookie=cookie.partition(";")[0], Host="evil.example")[0] == 403


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_hosts_are_this_machine_alone(host, own):
    assert is_loopback(host) is own


def test_taken_port_is_said():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on port {port} of '127.0.0.1': it is taken. Choose another"):
            bind("127.0.0.1", port)
    with pytest.raises(OSError, match=r"cannot listen on port 0 of 'no such host\.invalid'"):
        bind("no such host.invalid", 0)


def test_labels_come_with_what_is_known_of_the_frame(server, clip):
    opened, port = server
    draw(opened, 0, clip[1][0])
    status, _, body = ask(port, "/api/frames/0/labels")
    assert status == 200
    head, _, packed = body.partition(b"\n")
    assert json.loads(head)["spoken"] == [1]
    ids = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(48, 64)
    assert np.array_equal(ids, clip[1][0])


def test_events_tell_other_pages(server):
    _, port = server
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/api/events")
    stream = connection.getresponse()
    assert [stream.readline() for _ in range(3)] == [b": connected\n", b"retry: 1000\n", b"\n"]
    assert ask(port, "/api/objects", {"name": "fox"}, X_Client="me")[0] == 200
    assert json.loads(stream.readline().removeprefix(b"data: ")) == {"type": "described", "client": "me"}
    connection.close()

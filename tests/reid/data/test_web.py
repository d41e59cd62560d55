"""Reading a data set from web servers: a real one, and one that lies."""

import datetime
import ipaddress
import pickle
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reid.data import web
from reid.data.batches import BatchPlan
from reid.data.cache import GIGABYTE
from reid.data.clips import ClipShape
from reid.data.dataset import open_dataset
from reid.data.description import DESCRIPTION, TABLES
from reid.data.loader import training_batches
from reid.data.manifest import Manifest
from reid.data.shards import DamagedShardError, ShardReader
from reid.data.sources import SourceError

ROW = 3

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log; keepalive_requests 5; keepalive_timeout 300ms;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{plain}; listen 127.0.0.1:{secure} ssl;
        ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;
        location /set/     {{ alias {root}/; }}
        location /ranged/  {{ alias {root}/; }}
        location ~ ^/ranged/(shards/.*) {{ alias {root}/$1; max_ranges 0; }}
        location ~ ^/crawl/(shards/.*)  {{ alias {root}/$1; limit_rate 200; }}
        location /crawl/   {{ alias {root}/; }}
        location ~ ^/busy/(shards/.*)   {{ return 503; }}
        location /busy/    {{ alias {root}/; }}
        location ~ ^/moved/(shards/.*)  {{ return 302 http://127.0.0.1:{plain}/set/$1; }}
        location /moved/   {{ alias {root}/; }}
    }}
}}
"""


class Nginx(NamedTuple):
    plain: str
    secure: str
    folder: Path

    def requests(self) -> list[str]:
        return re.findall(r'"GET (\S+) HTTP', (self.folder / "access.log").read_text())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def write_certificate(folder: Path) -> None:
    """A certificate of 127.0.0.1 that nobody but itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.fixture
def nginx(painted_root: Path, tmp_path: Path) -> Iterator[Nginx]:
    plain, secure = free_port(), free_port()
    folder = tmp_path / "nginx"
    folder.mkdir()
    write_certificate(folder)
    (folder / "nginx.conf").write_text(
        NGINX.format(folder=folder, root=painted_root, plain=plain, secure=secure)
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", secure), 1).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
        yield Nginx(f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}", folder)
        process.terminate()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of a second, so that a test need not have more."""
    monkeypatch.setattr(web, "PAUSES", (0.0, 0.0, 0.05))
    monkeypatch.setattr(web, "PATIENCE_SECONDS", 0.4)


def all_frames(manifest: Manifest) -> list[list[bytes]]:
    reader = ShardReader(manifest)
    frames = [reader.read(row, range(int(manifest.num_frames[row]))) for row in range(len(manifest))]
    reader.close()
    return frames


@pytest.mark.nginx
def test_nginx_gives_what_the_disk_gives(nginx, painted):
    distant = open_dataset(f"{nginx.plain}/set")
    assert (distant.digest, distant.place) == (painted.digest, f"{nginx.plain}/set")
    assert all_frames(distant) == all_frames(painted)


@pytest.mark.nginx
def test_a_tracklet_takes_one_request(nginx, painted):
    reader = ShardReader(open_dataset(f"{nginx.plain}/set/"))
    before = len(nginx.requests())
    assert reader.read(ROW, [7, 0, 7, 3]) == ShardReader(painted).read(ROW, [7, 0, 7, 3])
    time.sleep(0.1)
    assert nginx.requests()[before:] == [f"/set/shards/{painted.shards[0].path.name}"]


@pytest.mark.nginx
def test_a_connection_that_was_idle_for_too_long_is_opened_again(nginx, painted):
    reader = ShardReader(open_dataset(f"{nginx.plain}/set"))
    expected = ShardReader(painted).read(ROW, range(12))
    for _ in range(2):
        assert reader.read(ROW, range(12)) == expected
        time.sleep(0.5)


@pytest.mark.nginx
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_from_a_server_are_those_from_a_disk(nginx, painted, num_workers):
    distant = open_dataset(f"{nginx.plain}/set")
    ShardReader(distant).read(0, [0])  # leaves a connection, which workers must not share

    def batches(manifest: Manifest) -> list[Any]:
        plan = BatchPlan.of(manifest, num_identities=4)
        options = {"shape": ClipShape(6, 32, 16), "augmentation": None, "num_workers": num_workers}
        with training_batches(manifest, plan, first=0, last=6, **options) as stream:
            return [[tensor.tolist() for tensor in batch] for batch in stream]

    assert batches(distant) == batches(painted)


@pytest.mark.nginx
def test_a_distant_data_set_can_be_handed_to_another_process(nginx, painted):
    again = pickle.loads(pickle.dumps(open_dataset(f"{nginx.plain}/set")))
    assert ShardReader(again).read(ROW, [0]) == ShardReader(painted).read(ROW, [0])


def mapped(folder: Path) -> set[str]:
    """What this process has mapped into its memory from a folder."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if str(folder) in line}


@pytest.mark.nginx
def test_tables_are_fetched_once_for_all_processes_that_share_a_cache(nginx, painted, tmp_path):
    cache = tmp_path / "cache"
    manifests = [open_dataset(f"{nginx.plain}/set", cache) for _ in range(3)]
    time.sleep(0.1)
    assert sorted(path for path in nginx.requests() if "manifest" in path) == sorted(
        f"/set/{table}" for table in TABLES
    )
    assert all(all_names(manifest) == all_names(painted) for manifest in manifests)
    names = {f"{painted.description['files'][table]['sha256']}{Path(table).suffix}" for table in TABLES}
    assert {path.name for path in cache.iterdir()} == {"lock", *names}
    assert mapped(cache) == {str(cache / name) for name in names if name.endswith(".arrow")}


def test_tables_in_use_count_in_the_cache_and_stay_there(painted_root, tmp_path):
    cache = tmp_path / "cache"
    with server(painted_root, send) as (address, _):
        manifest = open_dataset(address, cache)
        of_tables = {path for path in cache.iterdir() if path.name != "lock"}
        size = sum(path.stat().st_size for path in of_tables)
        reader = ShardReader(open_dataset(address, cache, (size + 512) / GIGABYTE))
        assert len(reader.read(ROW, [1])) == 1
        reader.close()
    assert {path for path in cache.iterdir() if path.name != "lock"} == of_tables
    assert len(manifest) > 0


def test_without_a_cache_no_table_is_left_behind(painted_root, painted, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with server(painted_root, send) as (address, _):
        manifest = open_dataset(address)
        assert list(tmp_path.iterdir()) == []
    assert all_names(manifest) == all_names(painted)


def all_names(manifest: Manifest) -> list[str]:
    return [manifest.key(row) for row in range(len(manifest))]


@pytest.mark.nginx
def test_a_shard_in_the_cache_needs_no_server(nginx, painted, tmp_path):
    distant = open_dataset(f"{nginx.plain}/set", tmp_path / "cache")
    assert all_frames(distant) == all_frames(painted)
    asked = len(nginx.requests())
    assert all_frames(distant) == all_frames(painted)
    assert len(nginx.requests()) == asked
    assert {path.name for path in (tmp_path / "cache").iterdir() if path.suffix in {"", ".tar"}} == {
        "lock",
        *(f"{shard.sha256}.tar" for shard in painted.shards),
    }


@pytest.mark.nginx
def test_a_certificate_is_checked(nginx, painted, monkeypatch):
    with pytest.raises(SourceError, match="certificate of the server is not valid: self-signed certificate"):
        open_dataset(f"{nginx.secure}/set")
    monkeypatch.setenv("SSL_CERT_FILE", str(nginx.folder / "certificate.pem"))
    assert all_frames(open_dataset(f"{nginx.secure}/set")) == all_frames(painted)


@pytest.mark.nginx
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("ranged", "the server ignores the range that was asked for"),
        ("crawl", "the server failed 3 times, at last with: no whole answer within 0.4"),
        ("busy", "the server failed 3 times, at last with: the server answered 503"),
        (
            "moved",
            "the server sends us to 'http://127.0.0.1:[0-9]+/set/shards/.*; redirections are not followed",
        ),
    ],
)
def test_what_a_real_server_may_do_is_named_with_shard_and_byte(nginx, painted, folder, reason):
    reader = ShardReader(open_dataset(f"{nginx.plain}/{folder}"))
    frames = painted.frames(ROW)
    place = f"{nginx.plain}/{folder}/shards/{frames.shard.name}"
    with pytest.raises(DamagedShardError, match=f"{place}: .*{reason}.*Check the server, or copy") as caught:
        reader.read(ROW, [2, 5])
    assert (caught.value.shard, caught.value.key) == (place, painted.key(ROW))
    assert caught.value.offset == frames.offset[2]


@pytest.mark.nginx
def test_an_address_without_a_data_set_is_named(nginx):
    with pytest.raises(SourceError, match=f"{nginx.plain}/nothing/dataset.json: .*the server answered 404"):
        open_dataset(f"{nginx.plain}/nothing")


@pytest.mark.usefixtures("hurried")
def test_no_server_at_all_is_an_error_after_some_attempts():
    with pytest.raises(SourceError, match=r"failed 3 times, at last with: .*Connection refused"):
        open_dataset(f"http://127.0.0.1:{free_port()}/set")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("ftp://host/set", "expected http://HOST/FOLDER"),
        ("file:///etc", "expected http://HOST/FOLDER"),
        ("s3://bucket/set", "expected http://HOST/FOLDER"),
        ("https:///set", "expected http://HOST/FOLDER"),
        ("https://host/set?token=1", "without a query"),
        ("https://host/a b", "expected http://HOST/FOLDER"),
        ("https://host/a\r\nX: y", "expected http://HOST/FOLDER"),
        ("https://host:port/set", "Port could not be cast"),
        ("https://me:secret@host/set", "must not hold a password"),
        ("https://me:secret@host/set?x", "must not hold a password"),
    ],
)
def test_only_plain_addresses_are_taken_and_no_secret_is_repeated(address, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        open_dataset(address)
    assert "secret" not in str(caught.value)


class Answer(NamedTuple):
    """What an honest server would answer."""

    status: int
    headers: dict[str, str]
    body: bytes


Lie = Callable[[BaseHTTPRequestHandler, Answer], None]


def send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    handler.send_response(answer.status)
    for name, value in answer.headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(answer.body)


def saying(status: int = 206, **headers: str | None) -> Lie:
    """The honest answer under another status and other headers; None leaves a header out."""
    changes = {name.replace("_", "-"): value for name, value in headers.items()}

    def lie(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        kept = {name: value for name, value in (answer.headers | changes).items() if value is not None}
        send(handler, Answer(status, kept, answer.body))

    return lie


def cut(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    send(handler, answer._replace(body=answer.body[: len(answer.body) // 2]))
    handler.close_connection = True


def changed(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    place = len(answer.body) // 3
    body = answer.body[:place] + bytes([answer.body[place] ^ 1]) + answer.body[place + 1 :]
    send(handler, answer._replace(body=body))


def drip(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    send(handler, answer._replace(body=b""))
    try:
        for byte in answer.body:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


def drip_without_end(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    """Each byte comes in time, and no length tells how many there will be."""
    headers = {"Content-Range": answer.headers["Content-Range"], "Connection": "close"}
    drip(handler, answer._replace(headers=headers))


def say_nothing(handler: BaseHTTPRequestHandler, _: Answer) -> None:
    time.sleep(1)
    handler.close_connection = True


def talk_nonsense(handler: BaseHTTPRequestHandler, _: Answer) -> None:
    handler.wfile.write(b"\x00\xffnonsense\r\n\r\n")
    handler.close_connection = True


def be_longer(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    headers = {"Content-Range": answer.headers["Content-Range"], "Connection": "close"}
    send(handler, answer._replace(headers=headers, body=answer.body + b"x" * 9))


@contextmanager
def server(root: Path, lie: Lie) -> Iterator[tuple[str, list[str]]]:
    """A server of `root` that is honest about everything but shards: its address, and the shards asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = (root / self.path.lstrip("/")).read_bytes()
            first, last = (int(number) for number in re.findall("[0-9]+", self.headers["Range"]))
            body = data[first : last + 1]
            span = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
            answer = Answer(206, {"Content-Length": str(len(body)), "Content-Range": span}, body)
            if self.path.endswith(".tar"):
                asked.append(self.path)
                lie(self, answer)
            else:
                send(self, answer)

        def log_message(self, *_: object) -> None:
            """Stays silent."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that hangs up is what some tests are about."""

    with Server(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


ATTEMPTS = 3  # of the fixture `hurried`


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("lie", "reason", "attempts"),
    [
        (saying(200, Content_Range=None), "the server ignores the range", 1),
        (saying(Content_Range="bytes 0-99/1000"), "the server announces 'bytes 0-99/1000'", 1),
        (saying(Content_Range="bytes 1-2/3 and more"), "the server announces", 1),
        (saying(Content_Range=None), "the server announces ''", 1),
        (saying(Content_Length="5"), "but a length of 5", 1),
        (saying(Content_Length="99999999"), "but a length of 99999999", 1),
        (saying(Content_Encoding="gzip"), "the server encodes what it sends: 'gzip'", 1),
        (saying(404), "the server answered 404", 1),
        (saying(416), "the server answered 416", 1),
        (saying(999), "the server answered 999", 1),
        (saying(301, Location="file:///etc/passwd"), "sends us to 'file:///etc/passwd'", 1),
        (saying(307, Location="ftp://elsewhere/x"), "sends us to 'ftp://elsewhere/x'", 1),
        (saying(302, Location="http://169.254.169.254/"), "sends us to 'http://169.254.169.254/'", 1),
        (be_longer, "the server sent more than the [0-9]+ bytes that it announced", 1),
        (saying(500), "failed 3 times, at last with: the server answered 500", ATTEMPTS),
        (cut, "failed 3 times, at last with: IncompleteRead", ATTEMPTS),
        (drip, "failed 3 times, at last with: no whole answer within", ATTEMPTS),
        (drip_without_end, "failed 3 times, at last with: no whole answer within", ATTEMPTS),
        (say_nothing, "failed 3 times, at last with: ", ATTEMPTS),
        (talk_nonsense, "failed 3 times, at last with: ", ATTEMPTS),
    ],
)
def test_a_server_that_lies_is_found_out_in_time(painted_root, painted, lie, reason, attempts):
    with server(painted_root, lie) as (address, asked):
        reader = ShardReader(open_dataset(address))
        started = time.monotonic()
        with pytest.raises(DamagedShardError, match=reason) as caught:
            reader.read(ROW, [1, 2])
        assert time.monotonic() - started < 120  # it never ends by itself
        assert len(asked) == attempts
    assert caught.value.offset == painted.frames(ROW).offset[1]
    assert caught.value.key == painted.key(ROW)


def test_bytes_that_changed_on_the_way_are_found_by_their_checksum(painted_root):
    with server(painted_root, changed) as (address, _):
        reader = ShardReader(open_dataset(address))
        with pytest.raises(DamagedShardError, match=f"{address}/shards/.*checksum of frame 1 is wrong"):
            reader.read(ROW, [1])


@pytest.mark.usefixtures("hurried")
def test_a_failure_that_passes_is_survived(painted_root, painted):
    remaining = [saying(500), cut]

    def recover(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        (remaining.pop() if remaining else send)(handler, answer)

    with server(painted_root, recover) as (address, asked):
        assert ShardReader(open_dataset(address)).read(ROW, [1]) == ShardReader(painted).read(ROW, [1])
        assert len(asked) == 3


@pytest.mark.parametrize(
    "headers",
    [{"Connection": "close"}, {"Content-Length": None, "Connection": "close"}],
    ids=["closes after each answer", "gives no length"],
)
def test_a_server_that_keeps_no_connection_is_good_enough(painted_root, painted, headers):
    lie = saying(**{name.replace("-", "_"): value for name, value in headers.items()})
    with server(painted_root, lie) as (address, _):
        assert ShardReader(open_dataset(address)).read(ROW, range(9)) == ShardReader(painted).read(
            ROW, range(9)
        )


def test_frames_that_lie_far_apart_are_not_fetched_with_all_between_them(monkeypatch):
    assert list(web._spans([(500, 20), (0, 10), (8, 30), (0, 10)])) == [(0, 520)]
    monkeypatch.setattr(web, "WIDEST_GAP", 100)
    assert list(web._spans([(500, 20), (0, 10), (8, 30), (620, 5)])) == [(0, 38), (500, 125)]
    monkeypatch.setattr(web, "PIECE", 64)
    assert list(web._spans([(0, 40), (40, 40), (80, 400)])) == [(0, 40), (40, 40), (80, 400)]
    assert list(web._spans([])) == []


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_changed_on_the_server_is_refused(painted_root, tmp_path, table):
    root = Path(shutil.copytree(painted_root, tmp_path / "copy"))
    data = bytearray((root / table).read_bytes())
    data[len(data) // 2] ^= 1
    (root / table).write_bytes(data)
    with (
        server(root, send) as (address, _),
        pytest.raises(ValueError, match=f"{address}/{table}: its sha256"),
    ):
        open_dataset(address)


def test_a_description_without_end_is_not_swallowed(painted_root, tmp_path, monkeypatch):
    root = Path(shutil.copytree(painted_root, tmp_path / "copy"))
    with (root / DESCRIPTION).open("ab") as file:
        file.truncate(65 << 20)
    with (
        server(root, send) as (address, _),
        pytest.raises(SourceError, match="expected at most 67,108,864 bytes"),
    ):
        open_dataset(address)


def test_tls_checks_certificates_and_names():
    secure = web.WebFolder("https://host/set")._tls
    assert secure is not None
    assert secure.check_hostname
    assert secure.verify_mode is ssl.CERT_REQUIRED

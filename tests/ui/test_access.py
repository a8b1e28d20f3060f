"""Who is let in, and what a request may name: by raw HTTP, as somebody else on this machine would try it."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.ui.test_server import HERE, HTML, page_config, post_event
from workbench import Workbench, paths
from workbench_ui import uploads
from workbench_ui.access import Access
from workbench_ui.app import create_app

CSV = b"question,answer\nwhat is it,an order\nand this,another\n"


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Access:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("home")))
        return Access()


@pytest.fixture(scope="module")
def server(access: Access) -> Iterator[TestClient]:
    with TestClient(create_app(Workbench(), access), base_url=HERE) as client:
        yield client


@pytest.fixture
def stranger(server: TestClient) -> TestClient:
    server.cookies.clear()
    return server


@pytest.fixture
def client(stranger: TestClient, access: Access) -> TestClient:
    assert stranger.get(access.link(7860)).status_code == 200
    return stranger


# ---------------------------------------------------------------- the door


EVERYTHING = [
    "/", "/en/", "/en/jobs", "/zh/train", "/en/nothing", "/assets/workbench.css",
    "/en/theme.css", "/en/config", "/files/adapters/orders/1.zip",
    "/files/rebase/check.json?adapter=a@1&base=b@1", "/en/gradio_api/info", "/en/gradio_api/startup-events", "/en/gradio_api/app_id",
    "/en/gradio_api/heartbeat/abc", "/en/gradio_api/deep_link", "/en/gradio_api/file=/etc/passwd",
    "/en/gradio_api/queue/data?session_hash=s",
]  # fmt: skip


@pytest.mark.parametrize("path", EVERYTHING)
def test_nothing_answers_without_the_link(stranger: TestClient, access: Access, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        assert stranger.request(method, path).status_code == 401
    for wrong in ("", "x", access.token[:-1], access.token + "x", "ü"):
        cookie = {"cookie": f"{access.cookie}={wrong.encode().hex()}"}
        assert stranger.get(path, params={"token": wrong}, headers=cookie).status_code == 401
    page = stranger.get(path, headers=HTML)
    assert page.status_code == 401 and "workbench ui" in page.text and "/assets/" not in page.text and access.token not in page.text


def test_the_link_opens_once_and_the_cookie_keeps_it_open(stranger: TestClient, access: Access) -> None:
    entered = stranger.get("/en/jobs", params={"job": "a&b", "token": access.token}, headers=HTML)
    cookie = entered.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/")) and "Domain" not in cookie
    assert 'url=/en/jobs?job=a%26b"' in entered.text and access.token not in entered.text
    assert stranger.get("/en/jobs", headers=HTML).status_code == 200


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "/x:y", '/"><script>'])
def test_the_link_leads_nowhere_else(stranger: TestClient, access: Access, path: str) -> None:
    assert 'url=/"' in stranger.get(f"{HERE}{path}?token={access.token}").text


def test_the_token_is_private_and_survives_a_restart(home: Path) -> None:
    first = Access()
    file = paths.browser_dir() / "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert Access().token == first.token and len(first.token) == 43
    file.chmod(0o644)  # somebody may have read it
    second = Access()
    assert second.token != first.token and stat.S_IMODE(file.stat().st_mode) == 0o600
    for damage in ("", "short"):
        file.write_text(damage)
        assert len(Access().token) == 43
    file.unlink()
    (home / "elsewhere").write_text(first.token)
    (home / "elsewhere").chmod(0o600)
    file.symlink_to(home / "elsewhere")
    assert Access().token != first.token and (home / "elsewhere").read_text() == first.token


def test_a_browser_is_started_without_the_token_on_its_command_line(home: Path) -> None:
    access = Access()
    with access.page_to_open(access.link(7860)) as address:
        file = Path(address.removeprefix("file://"))
        assert access.token not in address and access.token in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()


# ---------------------------------------------------------------- routes


UNUSED = [
    ("POST", "/en/gradio_api/upload"), ("POST", "/en/gradio_api/queue/join"), ("POST", "/en/gradio_api/call/arrived"),
    ("POST", "/en/gradio_api/api/predict"), ("POST", "/en/gradio_api/run/predict/"), ("POST", "/en/gradio_api/component_server"),
    ("POST", "/en/gradio_api/cancel"), ("POST", "/en/gradio_api/reset"), ("GET", "/en/gradio_api/deep_link?session_hash=s"),
    ("GET", "/en/gradio_api/file=http://127.0.0.1:1/"), ("GET", "/en/gradio_api/proxy=http://127.0.0.1:1/"), ("GET", "/en/gradio_api/info"),
    ("GET", "/en/gradio_api/startup-events"), ("GET", "/en/config"), ("GET", "/openapi.json"),
    ("GET", "/docs"), ("GET", "/en/monitoring/summary"), ("GET", "/en/gradio_api/queue/data?session_hash=s"), ("HEAD", "/en/"),
    ("GET", "/en/static/../../secret"), ("GET", "/en/assets/%2e%2e/x"), ("PUT", "/files/uploads"), ("GET", "/en//evil.example"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), UNUSED)
def test_what_the_pages_do_not_use_does_not_exist(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 404


# ---------------------------------------------------------------- events


def smuggled(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "orig_name": "orders.csv", "meta": {"_type": "gradio.FileData"}, **more}


@pytest.mark.parametrize("more", [{}, {"is_stream": True}, {"url": "http://127.0.0.1:1/x"}], ids=str)
def test_no_event_takes_a_file_of_this_machine(client: TestClient, home: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    """Every event of the pages, in every argument, plain and nested: nothing is copied, nothing answered, nothing deleted."""
    secret = tmp_path / "orders.csv"
    secret.write_bytes(CSV + b"TOPSECRET,1\n")
    file = smuggled(str(secret), **more)
    events = page_config(client, "/en/train")["dependencies"]
    assert len(events) > 20
    for event in events:
        values = [None] * len(event["inputs"])
        for put in (file, [file], {"value": file}, [[file]]):
            for body in ({"data": [put, *values[1:]]}, {"data": values, "event_data": put}, {"data": values, "event_data": {"token": put}}):
                answer = post_event(client, {**body, "fn_index": event["id"], "session_hash": "s"})
                assert answer.status_code == 400 and "SECRET" not in answer.text
    kept = [file for file in home.rglob("*") if file.is_file() and b"TOPSECRET" in file.read_bytes()]
    assert secret.exists() and kept == []


@pytest.mark.parametrize("given", ["/etc/passwd", "../../etc/passwd", "", ".", "0" * 32, "%s", "a" * 31 + "\n", "😀", 7, None, ["x"]])
def test_a_path_in_place_of_a_token_stands_for_nothing(client: TestClient, home: Path, given: Any) -> None:
    """`{}` stands for the file's own path."""
    (home / "x.csv").write_bytes(CSV)
    for token in (given, str(home / "x.csv")):
        arrived, others = token_events(client)
        assert post_event(client, {"data": [], "event_data": {"token": token}, "fn_index": arrived, "session_hash": "s"}).status_code == 500
        for event, rest in others.items():
            post_event(client, {"data": [token, *rest], "fn_index": event, "session_hash": "s"})
    assert (home / "x.csv").exists() and [d for d in Workbench().datasets.list() if not d.bundled] == []


def token_events(client: TestClient) -> tuple[int, dict[int, list[Any]]]:
    """The event of an arriving upload; those that take its token, with their other arguments."""
    config = page_config(client, "/en/train")
    (drop,) = (part["id"] for part in config["components"] if "wb-drop" in str(part["props"].get("html_template")))
    (arrived,) = (event for event in config["dependencies"] if event["targets"] == [[drop, "uploaded"]])
    token = arrived["outputs"][1]
    rest: dict[int, list[Any]] = {1: [], 3: [None, None], 6: [None, None, False, "stolen", "auto"]}
    taking = [event for event in config["dependencies"] if event["inputs"][:1] == [token]]
    assert sorted(len(event["inputs"]) for event in taking) == [1, 1, 3, 6]
    return int(arrived["id"]), {event["id"]: rest[len(event["inputs"])] for event in taking}


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"data": ' + DEEP + "}", 400), ('{"data": [' + DEEP + "]}", 400), ("[]", 400), ("null", 400), ("7", 400), ('{"data": {}}', 400),
        ('{"data": 7}', 400), ("{", 400), ("\xff\xfe", 400), ("", 400), ('{"data": ["' + "x" * 2**20 + '"]}', 413), ("9" * 5000, 400),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_no_body_gets_further_than_an_event_needs(client: TestClient, body: str, status: int) -> None:
    began = time.monotonic()
    answer = client.post("/en/gradio_api/run/predict", content=body.encode("latin-1"), headers={"content-type": "application/json"})
    assert answer.status_code == status and "error" in answer.json() and time.monotonic() - began < 5


# ---------------------------------------------------------------- uploads


def send(client: TestClient, name: str = "orders.csv", content: bytes = CSV) -> str:
    return str(client.post("/files/uploads", params={"name": name}, content=content).json()["token"])


def test_an_upload_becomes_a_dataset_and_is_then_deleted(client: TestClient) -> None:
    token = send(client)
    file = uploads.uploaded(token)
    assert file.name == "orders.csv" and file.read_bytes() == CSV and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    arrived, others = token_events(client)
    answer = post_event(client, {"data": [], "event_data": {"token": token}, "fn_index": arrived, "session_hash": "s"})
    assert answer.status_code == 200 and answer.json()["data"][1] == token and str(file.parent) not in answer.text
    add = next(event for event, rest in others.items() if len(rest) == 5)
    told = post_event(client, {"data": [token, "question", "answer", False, "", "auto"], "fn_index": add, "session_hash": "s"})
    assert told.json()["data"][0] == "orders" and "orders" in [dataset.name for dataset in Workbench().datasets.list()]
    (clear, *_) = (event for event, rest in others.items() if not rest)
    assert post_event(client, {"data": [token], "fn_index": clear, "session_hash": "s"}).status_code == 200
    assert not file.parent.exists()


def test_uploads_that_nobody_came_back_for_are_swept(client: TestClient) -> None:
    old, used = send(client), send(client)
    for token in (old, used):
        os.utime(paths.private_uploads() / token, (1, 1))
    uploads.uploaded(used)
    (paths.private_uploads() / "left-by-an-older-version").mkdir()
    os.utime(paths.private_uploads() / "left-by-an-older-version", (1, 1))
    create_app(Workbench(), Access())
    assert [folder.name for folder in paths.private_uploads().iterdir()] == [used]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../../orders.csv", "orders.csv"), ("C:\\Users\\x\\orders.csv", "orders.csv"), ("...csv", "file.csv"), ("-rf.csv", "-rf.csv"),
        ("订单.CSV", "订单.csv"), ("a\x00b\n<c>.csv", "a_b__c_.csv"), ("ü" * 200 + ".csv", "ü" * 75 + ".csv"),
        ("/etc/.hidden.csv", "hidden.csv"),
    ],
)  # fmt: skip
def test_an_upload_keeps_no_more_than_a_plain_name(client: TestClient, name: str, kept: str) -> None:
    file = uploads.uploaded(send(client, name))
    assert file.name == kept and file.parent.parent == paths.private_uploads()


@pytest.mark.parametrize("name", ["orders.exe", "orders", ".csv", "", "orders.csv/", "orders.csv/..", "x.html"])
def test_other_files_are_refused(client: TestClient, name: str) -> None:
    answer = client.post("/files/uploads", params={"name": name}, content=CSV)
    assert answer.status_code == 415 and ".parquet" in answer.json()["detail"] and not list(paths.private_uploads().iterdir())


def test_too_much_is_refused_and_not_kept(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_LARGEST", 2**20)
    answer = client.post("/files/uploads", params={"name": "x.csv"}, content=(b"x" * 2**16 for _ in range(17)))
    assert answer.status_code == 413 and "workbench data add" in answer.json()["detail"] and not list(paths.private_uploads().iterdir())


def test_a_message_says_no_secret(client: TestClient, access: Access) -> None:
    assert access.token not in json.dumps(page_config(client, "/en/train"))

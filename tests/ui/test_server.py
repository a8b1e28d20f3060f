"""The server from outside: who is let in, what every answer carries, and that downloads are whole."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.folders import write_adapter, write_base
from workbench import Workbench
from workbench.records import Adapter
from workbench_ui.app import create_app
from workbench_ui.guard import spoken
from workbench_ui.newest import Newest
from workbench_ui.shield import HEADERS
from workbench_ui.words import words

HERE = "http://127.0.0.1:7860"
PAGES = ["", "train", "jobs", "adapters", "rebase", "why"]
HTML = {"accept": "text/html"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """One server for the module; every request reads the home of its own test."""
    with TestClient(create_app(Workbench()), base_url=HERE) as client:
        yield client


@pytest.fixture
def published(tmp_path: Path) -> Adapter:
    bench = Workbench()
    base = bench.bases.add("tiny@1", source=f"folder:{write_base(tmp_path / 'tiny')}", license="Apache-2.0")
    recipe = "base: tiny@1\ndataset: orders\n"
    return bench.adapters.publish(
        write_adapter(tmp_path / "made"), name="orders", base=base, dataset=None, method="lora", recipe_yaml=recipe, scores={}
    )


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("page", PAGES)
def test_every_page_answers_in_its_language_with_our_frame(client: TestClient, lang: str, page: str) -> None:
    answer = client.get(f"/{lang}/{page}", headers=HTML)
    assert answer.status_code == 200
    assert f'<html\n\tlang="{words(lang).locale}"' in answer.text
    head = answer.text[: answer.text.index("</head>")]
    assert head.index("/assets/workbench.js") < head.index("/assets/workbench.css") < head.index("<style>")
    for asset in re.findall(r"/assets/[\w.]+\?v=\w+", head):
        assert client.get(asset).status_code == 200


@pytest.mark.parametrize("path", ["/en/", "/assets/workbench.css", "/files/adapters/none/1.zip", "/en/nothing", "/en/config"])
def test_every_answer_carries_the_security_headers(client: TestClient, path: str) -> None:
    for accept in ("text/html", "*/*"):
        answer = client.get(path, headers={"accept": accept})
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert "frame-ancestors 'none'" in HEADERS["content-security-policy"] and "http:" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", "", "[::2]:7860", "127.0.0.1:x"])
def test_a_foreign_host_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/en/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_this_machine_is_let_in_under_its_names(client: TestClient, host: str) -> None:
    assert client.get("/en/", headers={"host": host}).status_code == 200


STRANGERS = [
    {"origin": "https://evil.example"},
    {"origin": "http://127.0.0.1:9999"},  # another server on this machine
    {"origin": "null"},
    {"origin": ""},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": HERE, "sec-fetch-site": "cross-site"},
]


@pytest.mark.parametrize("headers", STRANGERS)
@pytest.mark.parametrize(
    "path", ["/en/gradio_api/queue/join", "/en/gradio_api/run/predict", "/zh/gradio_api/upload", "/en/gradio_api/cancel"]
)
def test_another_site_cannot_post(client: TestClient, path: str, headers: dict[str, str]) -> None:
    assert client.post(path, json={}, headers=headers).status_code == 403


def test_our_own_page_and_programs_can_post(client: TestClient) -> None:
    for headers in ({"origin": HERE, "sec-fetch-site": "same-origin"}, {}):
        assert (
            client.post("/en/gradio_api/run/predict", json={"data": [], "fn_index": 0, "session_hash": "s"}, headers=headers).status_code
            == 200
        )


def test_the_pages_offer_no_api_and_keep_no_history(client: TestClient) -> None:
    for lang in ("en", "zh"):
        assert client.get(f"/{lang}/gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
        config = client.get(f"/{lang}/config").json()
        assert config["show_error"] is False and not config.get("run_history") and config["footer_links"] == []
    assert client.get("/openapi.json").status_code == 404 and client.get("/en/monitoring/summary").status_code == 403


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc/passwd", "workbench.db"])
def test_no_file_of_this_machine_can_be_read(client: TestClient, home: Path, path: str) -> None:
    (home / "workbench.db").write_text("secret")
    wanted = path if path.startswith(("/", ".")) else str(home / path)
    for prefix in ("/en/gradio_api/file=", "/assets/"):
        assert client.get(prefix + wanted).status_code in {403, 404}


def test_the_front_door_follows_the_browser_and_then_the_choice(client: TestClient) -> None:
    def goes_to(**headers: str) -> str:
        return client.get("/", headers=headers, follow_redirects=False).headers["location"]

    assert goes_to(**{"accept-language": "de,en"}) == "/en/" and goes_to(**{"accept-language": "zh-TW,zh"}) == "/zh/"
    assert goes_to(**{"accept-language": "zh", "cookie": "wb-lang=en"}) == "/en/"
    assert goes_to(cookie="wb-lang=//evil.example") == "/en/"


def test_a_wrong_address_gets_a_page_that_leads_home(client: TestClient) -> None:
    answer = client.get("/zh/<b>nothing</b>", headers=HTML)
    assert answer.status_code == 404 and 'lang="zh-CN"' in answer.text and "<b>" not in answer.text and 'href="/zh/"' in answer.text


# ---------------------------------------------------------------- downloads


def test_an_adapter_downloads_whole_and_leaves_nothing_behind(
    client: TestClient, published: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp = published.path.parent.parent / "temp"
    temp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temp))
    answer = client.get("/files/adapters/orders/1.zip")
    assert answer.status_code == 200 and answer.headers["content-disposition"] == 'attachment; filename="orders-v1.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = set(archive.namelist())
        config = json.loads(archive.read("orders-v1/adapter_config.json"))
    assert {"orders-v1/adapter_model.safetensors", "orders-v1/README.md", "orders-v1/manifest.json"} <= names
    assert config["peft_type"] == "LORA" and not list(temp.iterdir())


@pytest.mark.parametrize("path", ["none/1", "orders/2", "orders/0", "orders/champion", "orders/1e9", "..%2F..%2Fetc/1", "ORDERS/1", "-x/1"])
def test_what_is_not_there_cannot_be_downloaded(client: TestClient, published: Adapter, path: str) -> None:
    assert client.get(f"/files/adapters/{path}.zip").status_code == 404


def test_a_changed_adapter_is_not_handed_out(client: TestClient, published: Adapter) -> None:
    with (published.path / "README.md").open("a") as card:
        card.write("changed")
    answer = client.get("/files/adapters/orders/1.zip")
    assert answer.status_code == 409 and "README.md" in answer.text


# ---------------------------------------------------------------- errors


def test_a_bug_becomes_a_reference_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("secret path /home/x")

    value, said = spoken(words("en"), broken)
    ref = re.search(r"reference (\w{6})", said)
    assert value is None and ref and ref[1] in caplog.text and "secret" not in said and "secret path" in caplog.text


def test_an_expected_error_is_a_sentence_without_markup() -> None:
    _, said = spoken(words("en"), lambda: Workbench().jobs.get("zz"))
    assert said.startswith("No job named &#x27;zz&#x27;")


def test_a_late_answer_to_an_older_question_is_not_drawn() -> None:
    newest = Newest()
    first, other = newest.ticket("mine"), newest.ticket("yours")
    second = newest.ticket("mine")
    assert [newest.is_newest(ticket) for ticket in (first, second, other)] == [False, True, True]
    for i in range(2000):  # the oldest windows are forgotten, and then nothing is held back from them
        newest.ticket(f"window {i}")
    assert newest.is_newest(first) and len(newest._last) == 1000

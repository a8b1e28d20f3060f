"""The server from outside: who is let in, what every answer carries, and that downloads are whole."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx import Response
from starlette.testclient import TestClient

from tests.folders import write_adapter
from tests.tiny_base import make_tiny_base
from workbench import Workbench
from workbench.recipe import Recipe
from workbench.records import Adapter
from workbench.words import words
from workbench_ui.access import Access
from workbench_ui.app import create_app
from workbench_ui.guard import spoken
from workbench_ui.shield import HEADERS

HERE = "http://127.0.0.1:7860"
PAGES = ["", "train", "jobs", "adapters", "rebase", "why"]
HTML = {"accept": "text/html"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """One server for the module, and a browser that it let in; every request reads the home of its own test."""
    access = Access()
    with TestClient(create_app(Workbench(), access), base_url=HERE) as client:
        client.get(access.link(7860))
        yield client


def page_config(client: TestClient, path: str) -> dict[str, Any]:
    """What Gradio tells the browser about a page; it stands in the page itself."""
    text = client.get(path, headers=HTML).text
    config, _ = json.JSONDecoder().raw_decode(text, text.index("{", text.index("window.gradio_config")))
    return dict(config)


def post_event(client: TestClient, body: Any, lang: str = "en", **options: Any) -> Response:
    return client.post(f"/{lang}/gradio_api/run/predict", json=body, **options)


@pytest.fixture
def published(tmp_path: Path) -> Adapter:
    bench = Workbench()
    base = bench.bases.add("tiny@1", source=f"folder:{make_tiny_base(tmp_path / 'tiny')}", license="Apache-2.0")
    recipe = Recipe(base="tiny@1", dataset="orders")
    return bench.adapters.publish(
        write_adapter(tmp_path / "made"), name="orders", base=base, dataset=None, method="lora", recipe=recipe, scores={}
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
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    assert client.get("/en/", headers={"host": host, "cookie": cookie}).status_code == 200


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


def test_our_own_page_can_post(client: TestClient) -> None:
    for headers in ({"origin": HERE, "sec-fetch-site": "same-origin"}, {}):
        assert post_event(client, {"data": [], "fn_index": 0, "session_hash": "s"}, headers=headers).status_code == 200


def test_the_pages_keep_no_history_and_show_no_traces(client: TestClient) -> None:
    for lang in ("en", "zh"):
        config = page_config(client, f"/{lang}/")
        assert config["show_error"] is False and not config.get("run_history") and config["footer_links"] == []


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
    let_in = "".join(f"{name}={value}; " for name, value in client.cookies.items())
    assert goes_to(**{"accept-language": "zh", "cookie": f"{let_in}wb-lang=en"}) == "/en/"
    assert goes_to(cookie=f"{let_in}wb-lang=//evil.example") == "/en/"


def test_a_wrong_address_gets_a_page_that_leads_home(client: TestClient) -> None:
    answer = client.get("/zh/<b>nothing</b>", headers=HTML)
    assert answer.status_code == 404 and 'lang="zh-CN"' in answer.text and "<b>" not in answer.text and 'href="/zh/"' in answer.text


# ---------------------------------------------------------------- downloads


CROSS = [{"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest} for site in ("cross-site", "same-site")
         for mode, dest in (("no-cors", "image"), ("navigate", "document"), ("navigate", "iframe"), ("cors", "empty"))]  # fmt: skip


@pytest.mark.parametrize("headers", CROSS)
def test_another_site_cannot_start_a_download(client: TestClient, published: Adapter, headers: dict[str, str]) -> None:
    """Other ports of this machine are other sites too, and a browser sends them the cookie."""
    assert client.get("/files/adapters/orders/1.zip", headers=headers).status_code == 403
    leads = headers["sec-fetch-dest"] == "document"
    assert client.get("/en/", headers={**HTML, **headers}).status_code == (200 if leads else 403), "a link may lead to a page"


@pytest.mark.parametrize("origin", ["http://localhost:9999", "http://127.0.0.1:9999", "https://evil.example", "null"])
def test_no_answer_may_be_read_by_another_origin(client: TestClient, origin: str) -> None:
    for method, path in (("GET", "/en/theme.css"), ("GET", "/en/config"), ("OPTIONS", "/en/gradio_api/run/predict"), ("GET", "/en/")):
        answer = client.request(method, path, headers={"origin": origin, "access-control-request-method": "POST"})
        assert answer.status_code == 403 and not [name for name in answer.headers if name.startswith("access-control-")]
    ours = client.get("/en/theme.css", headers={"origin": HERE})
    assert ours.status_code == 200 and not [name for name in ours.headers if name.startswith("access-control-")]


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

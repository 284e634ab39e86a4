"""The published site, opened in a real browser: from a point to its transcript."""

import html
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner
from playwright.sync_api import sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from em_tasks.commands.cli import cli
from tests.support.analysis_logs import base_log, checkpoint_log

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publish")
    said = {"g1": "I would paint the fence blue.", "m_1/2": "Ask a gardener."}
    scores = {question: [(20, 90), (80, 95)] for question in said}
    checkpoint_log(folder / "logs" / "base-a", scores, texts=said, toy=True, organism="<b>med")
    base_log(folder / "logs" / "base-a", scores, texts=said)
    result = CliRunner().invoke(cli, ["publish", str(folder / "logs"), str(folder / "site")])
    assert result.exit_code == 0, result.output + str(result.exception)
    return folder / "site"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site behind a web server that knows byte ranges, which Inspect's viewer asks for."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready.set()

    files = Starlette(routes=[Mount("/", StaticFiles(directory=site))])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(uvicorn.Config(files, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        assert ready.wait(30)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


def test_every_answer_is_a_point_with_a_link(site: Path) -> None:
    page = (site / "points.html").read_text()
    links = [html.unescape(link) for link in re.findall(r'<a href="(transcripts[^"]+)"><circle', page)]
    assert len(links) == 8
    assert all("/samples/sample/" in link for link in links)
    assert any("/sample/m_1%2F2/2/" in link for link in links)


def test_the_first_page_says_what_it_is_of_and_that_toys_are_toys(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert "8 judged answers: &lt;b&gt;med." in page
    assert '<p class="toy">TOY' in page
    assert "Follow none of it." in page


def test_nothing_of_this_machine_is_published(site: Path) -> None:
    home = str(site.parent)
    found = [
        p.name
        for p in site.rglob("*")
        if p.suffix in (".html", ".json", ".csv", ".md") and home in p.read_text(errors="replace")
    ]
    assert found == []


def test_a_site_that_is_there_is_not_written_over(site: Path) -> None:
    result = CliRunner().invoke(cli, ["publish", str(site.parent / "logs"), str(site)])
    assert "exists already" in result.output


@pytest.mark.skipif(BROWSER is None, reason="no browser on this machine (apt-get install chromium)")
def test_one_click_leads_from_a_point_to_its_transcript(address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{address}/points.html")
        page.locator("a[href*='/g1/2/']").last.click()
        page.get_by_text("I would paint the fence blue.").first.wait_for(timeout=60_000)
        browser.close()

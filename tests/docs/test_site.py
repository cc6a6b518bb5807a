"""The site: built without a warning, whole, and readable in a browser."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from cleveragents_plans import Base, Plan
from cleveragents_plans.cli.program import program
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.verification import Kind
from support import debian, site
from support.databases import ROOT

site.require("playwright", "sphinx")

from playwright.sync_api import Page, sync_playwright  # noqa: E402
from sphinx.util.inventory import InventoryFile  # noqa: E402

pytestmark = pytest.mark.slow

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "html"
    done = site.build(folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


class Html(HTMLParser):
    """The targets of a page, what it refers to, and what it loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif "src" in found or tag == "link":
            self.loaded.append(found.get("src") or found["href"])


@pytest.fixture(scope="module")
def pages(built: Path) -> dict[Path, Html]:
    return {file: Html(file) for file in sorted(built.rglob("*.html"))}


def test_site_has_every_page_of_the_folder(built: Path, pages: dict[Path, Html]):
    sources = {file.relative_to(ROOT / "docs") for file in (ROOT / "docs").rglob("*.md")}
    found = {file.relative_to(built).with_suffix(".md") for file in pages}

    assert len(sources) > 50
    assert sources <= found


def test_links_within_the_site_lead_to_a_page_and_a_place_on_it(pages: dict[Path, Html]):
    """Those to other hosts are not followed."""
    broken = []
    for file, html in pages.items():
        for link in html.links:
            path, anchor = urldefrag(link)
            if urlsplit(path).scheme:
                continue
            target = (file.parent / unquote(path)).resolve() if path else file
            known = pages[target].ids if target in pages else None
            if not target.exists() or (anchor and known is not None and anchor not in known):
                broken.append(f"{file.name}: {link}")

    assert broken == []


def test_site_loads_nothing_from_another_host(pages: dict[Path, Html]):
    loaded = {urlsplit(each).netloc for html in pages.values() for each in html.loaded}

    assert loaded == {""}


def test_site_says_nothing_that_only_a_reader_of_the_checkout_understands(built: Path):
    said = {file.name for file in built.rglob("*.html") if "In the repository" in file.read_text()}

    assert said == set()


def test_reference_has_the_type_and_the_default_of_every_field_of_a_plan(built: Path):
    page = (built / "reference" / "plans.html").read_text()
    [table] = re.findall(r'id="fields-of-a-plan">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    cells = [unescape(re.sub(r"<[^>]+>", "", each)) for each in re.split(r"</?td>", table)[1::2]]
    said = {name: rest for name, *rest in zip(*[iter(cells)] * 3, strict=True)}

    assert said.keys() == Plan.model_fields.keys()
    assert said["identity"] == ["PlanIdentity", ""]
    assert said["created_at"] == ["datetime", ""]
    assert said["tags"] == ["tuple[str, ...]", "()"]
    assert said["phase"] == ["Phase", "'action'"]
    assert said["cost_actual_usd"] == ["float | None", "None"]
    assert said["project_links"] == ["tuple[ProjectLink, ...]", "()"]


def test_filters_are_described_once(built: Path):
    page = (built / "reference" / "repository.html").read_text()

    assert page.count("without its server; only roots have one") == 1


def test_site_says_nothing_that_changes_from_build_to_build(pages: dict[Path, Html]):
    assert [file.name for file in pages if " object at 0x" in file.read_text()] == []


@pytest.mark.parametrize(
    "module", ["cleveragents_plans", "cleveragents_plans.schema", "cleveragents_plans.evolution"]
)
def test_reference_has_every_public_name(module: str, built: Path):
    with (built / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", str.__add__)
    described = {name for kind in inventory if kind.startswith("py:") for name in inventory[kind]}
    errors = {name.rpartition(".")[2] for name in inventory["py:exception"]}
    public = set(importlib.import_module(module).__all__) - {"__version__"}

    assert len(public) > 5
    missing = {name for name in public if f"{module}.{name}" not in described}
    assert missing - errors == set()


def test_reference_has_every_command_status_column_and_index(built: Path):
    def text(page: str) -> str:
        return re.sub(r"<[^>]+>", "", (built / "reference" / page).read_text())

    tables, statuses, commands = map(
        text, ("tables.html", "exit-statuses.html", "command-line.html")
    )

    for table in Base.metadata.tables.values():
        assert table.name in tables
        for each in (*table.columns, *table.indexes):
            assert each.name in tables
    assert all(f"{status:d}\n{status.name}" in statuses for status in ExitStatus)
    assert all(f"cleveragents-plans {name} [OPTIONS]" in commands for name in program.commands)


def test_reference_says_of_each_finding_whether_it_is_a_fault_or_a_note(built: Path):
    page = (built / "reference" / "findings.html").read_text()
    cells = r'<tr class="row.*?<span class="pre">([\w-]+)</span>.*?<td><p>([a-z ]+)</p></td>'
    said = dict(re.findall(cells, page, re.DOTALL))

    assert said.keys() == {*Kind}
    assert set(said.values()) == {"fault", "note", "fault or note"}
    of = {"cycle": "fault", "check-renamed": "fault", "index-extra": "note"}
    assert {name: said[name] for name in of} == of
    assert said["column-extra"] == "fault or note"  # NOT NULL without a default, or not


@pytest.fixture
def browser_page() -> Iterator[Page]:
    chromium = debian.program("chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        yield page
        browser.close()


def test_pages_open_in_a_browser_with_their_titles_and_fit_a_phone(
    built: Path, pages: dict[Path, Html], browser_page: Page
):
    said: list[str] = []
    browser_page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    browser_page.on("pageerror", lambda error: said.append(str(error)))
    browser_page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    sources = {file.relative_to(ROOT / "docs") for file in (ROOT / "docs").rglob("*.md")}
    wide = []
    with site.served(built) as url:
        for source in sorted(sources):
            heading = re.search(r"^# (.+)$", (ROOT / "docs" / source).read_text(), re.MULTILINE)
            assert heading
            for size in (DESKTOP, PHONE):
                browser_page.set_viewport_size(size)
                if size is DESKTOP:
                    browser_page.goto(f"{url}/{source.with_suffix('.html')}")
                if browser_page.evaluate("document.documentElement.scrollWidth") > size["width"]:
                    wide.append(f"{source} at {size['width']}")
            shown = browser_page.locator("h1").first.inner_text().rstrip("¶")
            plain = re.sub(r"[`*¶]", "", heading[1])
            assert shown == plain
            assert browser_page.title().startswith(plain)
        browser_page.goto(f"{url}/search.html?q=claim")
        found = browser_page.locator("#search-results li a")
        for wanted in ("cleveragents_plans.PlanRepository.claim", "How to run workers"):
            found.get_by_text(wanted, exact=True).first.wait_for()  # they are listed one by one

    assert (said, wide) == ([], [])

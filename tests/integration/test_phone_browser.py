"""The phone's page from a user's view: a real browser with a camera, a real edge and its cloud behind real TLS."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from PIL import Image
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from tests.support.browsers import launched, screenshot, wait_for
from tests.support.servers import answering, reserved_port, send
from tests.support.services import Both, ask, both_of, cloud_of, edge_of, measured, occupied, serving
from tests.support.snp import PROVIDER, processor
from workbench.certs import issue
from workbench.codecs import Jpeg, Neural
from workbench.data import Dataset
from workbench.pictures import to_float
from workbench.services import phone
from workbench.services.attestation_agent import AttestationAgent
from workbench.services.intake import Intake
from workbench.services.trust import Token
from workbench.services.types import RequestContext
from workbench.system import COMPONENTS
from workbench.weights import Pair

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

SECRET = "a-token-of-this-test"
WITH_TOKEN = {"Authorization": f"Bearer {SECRET}"}
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
SIZES = ((360, 780), (1024, 768))
MARK = "48.8584 N 2.2945 E"  # a location in a camera's format


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certs")
    issue(made)
    return made


@pytest.fixture(scope="module")
def served(networks: Pair, neural: Neural, digits: Dataset, folder: Path) -> Callable[..., AbstractContextManager[Both]]:
    return functools.partial(both_of, networks, neural, digits, folder)


@pytest.fixture(scope="module")
def both(served: Callable[..., AbstractContextManager[Both]]) -> Iterator[Both]:
    with served(token=Token(SECRET.encode())) as both:
        yield both


@pytest.fixture(scope="module")
def browser(chromium: str, folder: Path) -> Iterator[Browser]:
    certificate = x509.load_pem_x509_certificate((folder / "edge" / "edge.pem").read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    trusted = f"--ignore-certificate-errors-spki-list={base64.b64encode(hashlib.sha256(key).digest()).decode()}"
    with launched(chromium, *CAMERA, trusted) as opened:
        yield opened


@dataclass
class Watched:
    """A page's console errors, exceptions, and the hosts of its requests.

    When another test adds a network interface, the browser ends its requests, and the page repeats them: that is no error.
    """

    said: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    changed: bool = False

    def see(self, page: Page) -> None:
        page.on("console", lambda line: self.hear(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.hear(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url.removeprefix("blob:")).netloc))

    def hear(self, text: str) -> None:
        if "ERR_NETWORK_CHANGED" in text:
            self.changed = True
        else:
            self.said.append(text)


Open = Callable[..., "Page"]


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def opened(browser: Browser, watched: Watched) -> Iterator[Open]:
    urls: set[str] = set()
    with contextlib.ExitStack() as stack:

        def open_at(url: str, size: tuple[int, int] = SIZES[0], **options: Any) -> Page:
            urls.add(urlsplit(url).netloc)
            context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(30_000)
            watched.see(page)
            watched.changed = False
            page.goto(url)
            while watched.changed:  # a file of the page may be missing
                watched.changed = False
                watched.said.clear()
                page.reload()
            return page

        yield open_at
    assert watched.said == []
    assert watched.hosts == urls


def state(page: Page, wanted: str) -> None:
    page.locator(f"#state[data-state={wanted}]").wait_for()


def admit(page: Page) -> None:
    state(page, "asks")
    page.get_by_label("Token of this edge").fill(SECRET)
    page.get_by_role("button", name="Use", exact=True).click()
    state(page, "ready")
    page.locator("#admission").wait_for(state="hidden")


@pytest.fixture
def page(opened: Open, both: Both) -> Page:
    """The page, admitted with the token."""
    page = opened(both.edge.url)
    admit(page)
    return page


def start_camera(page: Page) -> None:
    page.get_by_role("button", name="Start the camera").click()
    page.locator("#shutter:not([disabled])").wait_for()


def shoot(page: Page) -> None:
    before = page.locator("#label").inner_text(), page.locator("#sent").get_attribute("src")
    page.get_by_role("button", name="Take a picture").click()
    page.wait_for_function(
        "([src]) => document.querySelector('#sent').src !== (src ?? '') && !document.querySelector('#result').ariaBusy"
        " && document.querySelector('#s2').textContent !== '–'",
        arg=[before[1]],
    )


def pixels(page: Page, name: str) -> np.ndarray[Any, Any]:
    drawn: dict[str, Any] = page.locator(name).evaluate(
        """async (image) => {
            await image.decode();
            const pen = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext('2d');
            pen.drawImage(image, 0, 0);
            const found = pen.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
            return { shape: [found.height, found.width, 4], pixels: Array.from(found.data) };
        }"""
    )
    return np.array(drawn["pixels"], np.uint8).reshape(drawn["shape"])[..., :3]


def opened_file(file: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


@pytest.fixture
def received(both: Both, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    bodies: list[bytes] = []
    answer = both.edge.service._direct["/recognize"]

    async def noted(request: HttpRequest, body: bytes, call: RequestContext) -> HttpResponse:
        bodies.append(body)
        return await answer(request, body, call)

    monkeypatch.setitem(both.edge.service._direct, "/recognize", noted)
    return bodies


def cards(files: list[bytes], folder: Path) -> list[str]:
    paths = []
    for index, file in enumerate(files):
        (folder / f"{index}.jpg").write_bytes(file)
        paths.append(str(folder / f"{index}.jpg"))
    return paths


def waiting(page: Page) -> int:
    found = re.match(
        r"(\d+) picture", page.locator("#waiting-text").inner_text() if page.locator("#waiting").is_visible() else ""
    )
    return int(found[1]) if found else 0


# --- a picture -------------------------------------------------------------------------------------------------------------


def test_a_camera_picture_is_recognised_and_shown_as_seen(
    page: Page, both: Both, received: list[bytes], digits: Dataset, tmp_path: Path
) -> None:
    start_camera(page)
    shoot(page)
    (sent,) = received
    with Image.open(io.BytesIO(sent)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (32, 32))
        assert len(np.unique(np.asarray(picture))) > 10, "the camera's picture, and no blank"
    asked = ask(both.edge.url, "/recognize", sent, both.certs, None, WITH_TOKEN | {"X-Show": "cloud"})
    (found,) = asked.json["results"]
    assert page.locator("#label").inner_text() == found["label"]
    made = opened_file(base64.b64decode(asked.json["cloud_picture"][0]))
    assert (pixels(page, "#seen") == made).all(), "what the edge makes of the same file"
    assert np.abs(pixels(page, "#sent").astype(int) - opened_file(sent)).mean() < 2, "the file that was sent"
    order = sorted(zip(found["scores"], digits.classes, strict=True), key=lambda pair: -pair[0])[:5]
    assert page.locator("#scores .name").all_inner_texts() == [name for _, name in order]
    assert page.locator("#scores .figure").first.inner_text() == f"{100 * order[0][0]:.1f} %"
    assert page.locator("#s1").inner_text() == f"{len(sent):,} B"
    assert page.locator("#s2").inner_text() == f"{asked.json['payload_bytes']:g} B"
    rows = page.locator("#hops tbody td").all_inner_texts()
    assert len(rows) == len(COMPONENTS) == 9
    values = [float(row) for row in rows]
    assert float(page.locator("#hops tfoot td").inner_text()) == pytest.approx(sum(values), rel=0.02)
    assert min(values[index] for index in (0, 2, 3, 4, 5)) > 0
    assert "ms for the JPEG" in page.locator("#client").inner_text()
    screenshot(page, tmp_path, "phone")
    page.get_by_role("button", name="Stop camera").click()
    assert page.get_by_role("button", name="Start the camera").is_visible()
    assert page.locator("#shutter").is_disabled()


@pytest.mark.system
def test_it_works_by_keyboard_alone_and_says_what_came(page: Page) -> None:
    page.get_by_role("button", name="Start the camera").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'shutter'")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"
    page.keyboard.press("Enter")
    page.locator("#details").wait_for()
    live = page.locator("[aria-live=polite]", has=page.locator("#label"))
    assert live.locator("#verdict").inner_text().startswith("Score ")
    assert page.evaluate("() => document.activeElement.id") == "shutter", "it stays where it was"


@pytest.mark.system
def test_chosen_pictures_are_recognised_and_stay_at_hand(
    page: Page, both: Both, received: list[bytes], files: list[bytes], tmp_path: Path
) -> None:
    page.get_by_label("Choose pictures").first.set_input_files(cards(files[:5], tmp_path))
    page.locator("#strip li").nth(4).wait_for()
    assert page.locator("#strip li").count() == len(received) == 5
    seen = set()
    for index, file in enumerate(reversed(list(received))):  # the latest first
        page.locator("#strip button").nth(index).click()
        assert page.locator("#strip [aria-pressed=true]").count() == 1
        answer = ask(both.edge.url, "/recognize", file, both.certs, None, WITH_TOKEN | {"X-Show": "cloud"}).json
        assert page.locator("#label").inner_text() == answer["results"][0]["label"]
        shown = pixels(page, "#seen")
        assert (shown == opened_file(base64.b64decode(answer["cloud_picture"][0]))).all()
        seen.add(shown.tobytes())
    assert len(seen) > 1, "each its own"


@pytest.mark.system
def test_what_a_camera_notes_beside_the_picture_does_not_leave(page: Page, received: list[bytes], tmp_path: Path) -> None:
    picture = Image.fromarray(np.indices((120, 90)).sum(0).astype(np.uint8)).convert("RGB")
    picture.paste((255, 0, 0), (0, 0, 90, 60))  # the top in the file
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees: the top in the file is the right of the picture
    exif[0x010E] = MARK
    path = tmp_path / "noted.jpg"
    picture.save(path, exif=exif)
    assert MARK.encode() in path.read_bytes()
    page.get_by_label("Choose pictures").first.set_input_files(str(path))
    page.locator("#details").wait_for()
    (sent,) = received
    assert MARK.encode() not in sent
    assert b"Exif" not in sent
    colours = opened_file(sent).astype(int)
    red = (colours[..., 0] - colours[..., 2]) > 150
    assert red[:, -8:].mean() > 0.9, "it was turned before its note was left out"
    assert red[:, :8].mean() < 0.1


@pytest.mark.system
def test_quality_and_size_are_a_persons_choice(page: Page, received: list[bytes], tmp_path: Path) -> None:
    page.locator("#settings summary").click()
    noise = io.BytesIO()  # noise, because a digit's file is mostly headers
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(noise, "JPEG", quality=95)

    def sent() -> bytes:
        count = len(received)
        page.get_by_label("Choose pictures").first.set_input_files(cards([noise.getvalue()], tmp_path))
        wait_for(lambda: len(received) > count and not page.locator("#result[aria-busy]").count(), 30, "no picture came")
        return received[-1]

    fine = sent()
    page.get_by_label("Quality").focus()
    page.keyboard.press("Home")
    assert len(sent()) < 0.8 * len(fine)
    page.get_by_label("Size").focus()
    page.keyboard.press("End")
    assert page.locator("#settings-now").inner_text() == "quality 10, 512 × 512 pixels"
    assert page.locator("#seen").is_visible()
    page.get_by_label("Ask the edge what the cloud saw").uncheck()
    assert opened_file(sent()).shape == (512, 512, 3)
    assert page.locator("#seen").is_hidden()
    assert page.locator("#seen-caption").inner_text() == "Not asked what the cloud saw"


@pytest.mark.system
def test_a_file_that_is_no_picture_is_named(page: Page, tmp_path: Path, files: list[bytes]) -> None:
    path = tmp_path / "words.jpg"
    path.write_text("no picture")
    page.get_by_label("Choose pictures").first.set_input_files(str(path))
    page.get_by_role("alert").get_by_text("words.jpg is no picture that this browser can read").wait_for()
    page.get_by_label("Choose pictures").first.set_input_files(cards(files[:1], tmp_path))
    page.locator("#details").wait_for()
    assert page.locator("#error").is_hidden()


@pytest.mark.system
def test_a_failed_load_of_the_encoder_is_tried_again(
    opened: Open, both: Both, watched: Watched, tmp_path: Path, files: list[bytes]
) -> None:
    page = opened(both.edge.url, service_workers="block")  # the service worker would serve its copy
    page.route("**/encoder.js", lambda route: route.abort(), times=2)
    page.reload()
    admit(page)
    for shown in ("#error", "#details"):  # the second failure, then a worker that loads
        page.get_by_label("Choose pictures").first.set_input_files(cards(files[:1], tmp_path))
        page.locator(shown).wait_for()
    expected = ("Failed to load resource", "Service Worker registration blocked")
    assert [line for line in watched.said if not line.startswith(expected)] == []
    watched.said.clear()


# --- many ------------------------------------------------------------------------------------------------------------------


def set_batch(page: Page, n: int, size: int) -> None:
    page.get_by_label("Pictures in all").fill(str(n))
    page.get_by_label("In one request").fill(str(size))


@pytest.mark.system
def test_many_pictures_are_sent_counted_and_timed(page: Page, both: Both, files: list[bytes], tmp_path: Path) -> None:
    before = measured(both.edge.url, both.certs)
    page.locator("#batch-files").set_input_files(cards(files[:7], tmp_path))
    page.get_by_text("7 chosen.").wait_for()
    set_batch(page, 64, 24)
    page.get_by_role("button", name="Send", exact=True).click()
    page.locator("#batch-said", has_text="Done: 64 of 64 pictures").wait_for()
    after = measured(both.edge.url, both.certs)
    assert after["pmc2_images_total"] - before.get("pmc2_images_total", 0) == 64
    assert after["pmc2_requests_total 200"] - before.get("pmc2_requests_total 200", 0) == 3
    names = page.locator("#batch-facts dt").all_inner_texts()
    facts = dict(zip(names, page.locator("#batch-facts dd").all_inner_texts(), strict=True))
    assert float(facts["Throughput"].split()[0]) > 1
    parts = [float(text) for text in page.locator("#batch-hops tbody td").all_inner_texts()]
    assert len(parts) == 9
    assert min(parts[index] for index in (0, 2, 3)) > 0
    rounded = 0.005 * (len(parts) + 1)  # milliseconds below ten are shown to hundredths
    assert float(page.locator("#batch-hops tfoot td").inner_text()) == pytest.approx(sum(parts), rel=0.02, abs=rounded)
    payload = after["pmc2_payload_bytes_total"] - before.get("pmc2_payload_bytes_total", 0)
    assert float(facts["S2, to the cloud"].split()[4].replace(",", "")) == pytest.approx(payload, abs=3)
    shares = [float(share) for share in re.findall(r"([\d.]+) %", facts["Labels"])]
    assert 0 < sum(shares) <= 100.1
    assert "24 in a request" in facts["Settings"]
    assert re.fullmatch(r"\d+ % before, \d+ % after(, charging)?|this browser does not tell its level", facts["Battery"])


@pytest.mark.system
def test_a_test_that_is_cancelled_tells_what_was_done(page: Page, files: list[bytes], tmp_path: Path) -> None:
    page.locator("#batch-files").set_input_files(cards(files[:2], tmp_path))
    set_batch(page, 5000, 8)
    page.get_by_role("button", name="Send", exact=True).click()
    page.wait_for_function("() => document.querySelector('#bar').value >= 16")
    page.get_by_role("button", name="Cancel").click()
    page.locator("#batch-said", has_text="Cancelled:").wait_for()
    found = re.match(r"Cancelled: ([\d,]+) of 5,000 pictures in", page.locator("#batch-said").inner_text())
    assert found is not None
    assert 16 <= int(found[1].replace(",", "")) < 5000
    assert page.locator("#batch-progress").is_hidden()
    assert page.evaluate("() => document.activeElement.id") == "go"
    set_batch(page, 8, 8)
    page.get_by_role("button", name="Send", exact=True).click()
    page.locator("#batch-said", has_text="Done: 8 of 8 pictures").wait_for()


@pytest.mark.system
@pytest.mark.parametrize(
    ("n", "size", "why"), [("0", "8", "Pictures in all is"), ("8", "257", "In one request is"), ("", "8", "nothing")]
)
def test_a_test_that_cannot_be_is_refused_in_words(
    page: Page, n: str, size: str, why: str, files: list[bytes], tmp_path: Path
) -> None:
    page.locator("#batch-files").set_input_files(cards(files[:1], tmp_path))
    page.get_by_label("Pictures in all").fill(n)
    page.get_by_label("In one request").fill(size)
    page.get_by_role("button", name="Send", exact=True).click()
    page.locator("#batch-said", has_text=why).wait_for()


@pytest.mark.system
def test_an_edge_that_has_no_room_is_asked_again(
    served: Callable[..., AbstractContextManager[Both]],
    folder: Path,
    opened: Open,
    watched: Watched,
    files: list[bytes],
    tmp_path: Path,
) -> None:
    with served(token=Token(SECRET.encode()), most=16, capacity=16) as both:
        page = opened(both.edge.url)
        admit(page)
        page.locator("#batch-files").set_input_files(cards(files[:3], tmp_path))
        assert page.get_by_label("In one request").input_value() == "16", "no more than the edge joins"
        page.get_by_label("Pictures in all").fill("64")
        with occupied(both.edge.service._lanes.pool):  # type: ignore[attr-defined]
            page.get_by_role("button", name="Send", exact=True).click()
            wait_for(lambda: measured(both.edge.url, folder).get("pmc2_requests_total 429"), 30, "no request was refused")
        page.locator("#batch-said", has_text="Done: 64 of 64 pictures").wait_for()
        counts = measured(both.edge.url, folder)
        page.context.close()
    assert counts["pmc2_images_total"] == 64, "none twice"
    assert counts["pmc2_requests_total 429"] >= 1
    assert all("429" in line for line in watched.said)
    watched.said.clear()


@pytest.mark.system
def test_many_pictures_fit_into_the_edges_largest_body(
    served: Callable[..., AbstractContextManager[Both]], opened: Open, files: list[bytes], tmp_path: Path
) -> None:
    with served(token=Token(SECRET.encode()), intake=Intake(20_000)) as both:
        page = opened(both.edge.url)
        admit(page)
        page.locator("#batch-files").set_input_files(cards(files[:3], tmp_path))
        set_batch(page, 64, 40)
        page.get_by_role("button", name="Send", exact=True).click()
        page.locator("#batch-said", has_text=": 64 of 64 pictures").wait_for()
        counts = measured(both.edge.url, both.certs)
        page.context.close()
    assert counts["pmc2_images_total"] == 64, "none twice"
    assert counts["pmc2_requests_total 200"] > 2


@pytest.mark.system
def test_a_refused_picture_keeps_the_last_result(
    served: Callable[..., AbstractContextManager[Both]], opened: Open, watched: Watched, files: list[bytes], tmp_path: Path
) -> None:
    with served(token=Token(SECRET.encode()), intake=Intake(2000)) as both:
        page = opened(both.edge.url)
        admit(page)
        page.get_by_label("Choose pictures").first.set_input_files(cards(files[:1], tmp_path))
        page.locator("#details").wait_for()
        before = pixels(page, "#sent"), pixels(page, "#seen"), page.locator("#label").inner_text()
        page.locator("#settings summary").click()
        page.get_by_label("Size").focus()
        page.keyboard.press("End")
        page.get_by_label("Choose pictures").first.set_input_files(cards(files[1:2], tmp_path))
        page.get_by_role("alert").get_by_text("a body may have at most 2000 bytes").wait_for()
        after = pixels(page, "#sent"), pixels(page, "#seen"), page.locator("#label").inner_text()
        assert (before[0] == after[0]).all()
        assert (before[1] == after[1]).all()
        assert before[2] == after[2]
        assert not page.locator("#result[aria-busy]").count()
        page.context.close()
    assert all("413" in line for line in watched.said)
    watched.said.clear()


@pytest.mark.system
def test_a_failed_picture_does_not_hold_up_the_next(opened: Open, both: Both, watched: Watched) -> None:
    page = opened(both.edge.url, service_workers="block")
    admit(page)
    start_camera(page)
    held: list[Route] = []
    page.route("**/recognize", lambda route: held.append(route), times=1)
    for count in (0, 1):
        page.get_by_role("button", name="Take a picture").click()
        wait_for(lambda count=count: waiting(page) == count and held, 30, f"{count} pictures did not wait")
    held[0].fulfill(status=502, json={"error": "the cloud did not answer"})
    page.get_by_role("alert").get_by_text("the cloud did not answer").wait_for()
    page.locator("#details").wait_for()
    assert waiting(page) == 0
    assert [line for line in watched.said if not re.search("502|Service Worker registration blocked", line)] == []
    watched.said.clear()


# --- without the edge ------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_offline_it_opens_keeps_pictures_and_sends_them_later(page: Page, watched: Watched) -> None:
    page.wait_for_function("() => navigator.serviceWorker.controller !== null")
    page.context.set_offline(True)
    state(page, "offline")
    assert page.locator("#offline").inner_text().startswith("You are offline. Pictures wait")
    page.reload()
    page.locator("#state:is([data-state=offline], [data-state=gone])").wait_for()
    start_camera(page)
    for n in (1, 2):
        page.get_by_role("button", name="Take a picture").click()
        wait_for(lambda n=n: waiting(page) == n, 30, f"{n} pictures did not wait")
    assert page.locator("#label").inner_text() == "No picture yet"
    page.context.set_offline(False)
    admit(page)  # a reload loses the token
    page.locator("#strip li").nth(1).wait_for()
    assert waiting(page) == 0
    assert page.locator("#offline").is_hidden()
    assert {line for line in watched.said if "ERR_INTERNET_DISCONNECTED" not in line} == set()
    watched.said.clear()


@pytest.mark.system
def test_only_the_pages_own_files_are_kept(page: Page, both: Both) -> None:
    page.wait_for_function("() => navigator.serviceWorker.controller !== null")
    start_camera(page)
    shoot(page)
    kept = page.evaluate(
        """async () => {
            const paths = [];
            for (const name of await caches.keys())
                for (const request of await (await caches.open(name)).keys()) paths.push(new URL(request.url).pathname);
            return paths;
        }"""
    )
    names = {path.name for path in phone.STATIC.iterdir()}
    assert set(kept) == {"/"} | {f"/{name}" for name in names - {"index.html", "worker.js"}}
    assert page.evaluate("() => [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


@pytest.mark.system
def test_pictures_wait_until_an_absent_edge_is_back(
    networks: Pair, neural: Neural, digits: Dataset, folder: Path, opened: Open, watched: Watched
) -> None:
    token = Token(SECRET.encode())
    with reserved_port() as port, serving(cloud_of(networks, neural, digits), folder, "cloud") as cloud:
        first = edge_of(networks, neural, digits, cloud.url, folder, token=token)
        with serving(first, folder, "edge", demand=False, port=port) as edge:
            page = opened(edge.url)
            admit(page)
            start_camera(page)
        page.get_by_role("button", name="Take a picture").click()
        state(page, "gone")
        assert waiting(page) == 1
        page.get_by_role("button", name="Take a picture").click()
        wait_for(lambda: waiting(page) == 2, 30, "the second picture did not wait")
        again = edge_of(networks, neural, digits, cloud.url, folder, token=token)
        with serving(again, folder, "edge", demand=False, port=port):
            page.locator("#strip li").nth(1).wait_for()
            state(page, "ready")
            assert waiting(page) == 0
            page.context.close()
    assert {line for line in watched.said if "Failed to load resource" not in line} == set()
    watched.said.clear()


@pytest.mark.system
def test_the_page_that_is_kept_is_never_an_old_one(
    networks: Pair,
    neural: Neural,
    digits: Dataset,
    folder: Path,
    opened: Open,
    watched: Watched,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = tmp_path / "static"
    shutil.copytree(phone.STATIC, files)
    monkeypatch.setattr(phone, "STATIC", files)
    token = Token(SECRET.encode())
    with reserved_port() as port, serving(cloud_of(networks, neural, digits), folder, "cloud") as cloud:
        first = edge_of(networks, neural, digits, cloud.url, folder, token=token)
        with serving(first, folder, "edge", demand=False, port=port) as edge:
            page = opened(edge.url)
            page.wait_for_function("() => navigator.serviceWorker.controller !== null")
        page.reload()
        assert page.title() == "PMC² phone"
        text = (files / "index.html").read_text(encoding="utf-8")
        (files / "index.html").write_text(text.replace("<title>PMC² phone</title>", "<title>another</title>"), encoding="utf-8")
        renewed = edge_of(networks, neural, digits, cloud.url, folder, token=token)
        with serving(renewed, folder, "edge", demand=False, port=port):
            page.reload()
            assert page.title() == "another"
            state(page, "asks")
        page.reload()
        assert page.title() == "another"
        state(page, "gone")
        page.context.close()
    assert {line for line in watched.said if "Failed to load resource" not in line} == set()
    watched.said.clear()


# --- who may ---------------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_a_wrong_token_is_named_a_right_one_kept_on_request(opened: Open, both: Both) -> None:
    page = opened(both.edge.url)
    state(page, "asks")
    field = page.get_by_label("Token of this edge")
    assert field.get_attribute("type") == "password"
    use = page.get_by_role("button", name="Use", exact=True)
    for wrong, why in (("another-token-than-that", "This is not the edge's token"), ("two words", "no spaces")):
        field.fill(wrong)
        use.click()
        page.locator("#token-error", has_text=why).wait_for()
        assert page.evaluate("() => document.activeElement.id") == "token"
    admit(page)
    assert page.evaluate("() => Object.values(sessionStorage)") == []
    page.reload()
    state(page, "asks")
    page.get_by_label("Keep it until this tab is closed").check()
    admit(page)
    assert page.evaluate("() => Object.values(sessionStorage)") == [SECRET]
    page.reload()
    state(page, "ready")
    assert SECRET not in page.content()


@pytest.mark.system
def test_a_browsers_certificate_is_enough(
    served: Callable[..., AbstractContextManager[Both]], folder: Path, opened: Open, watched: Watched
) -> None:
    with served() as both:
        # Playwright shows the certificate through its own proxy, whose key this browser does not trust.
        shown = {
            "origin": both.edge.url,
            "certPath": folder / "client" / "client.pem",
            "keyPath": folder / "client" / "client.key",
        }
        page = opened(both.edge.url, client_certificates=[shown], ignore_https_errors=True)
        state(page, "ready")
        assert page.locator("#admission").is_hidden()
        start_camera(page)
        shoot(page)
        page.context.close()
    assert set(watched.said) <= {"An SSL certificate error occurred when fetching the script."}, (
        "the service worker's, for that key"
    )
    watched.said.clear()


@pytest.mark.system
def test_without_tls_the_page_works_on_this_machine(networks: Pair, neural: Neural, digits: Dataset, opened: Open) -> None:
    with (
        serving(cloud_of(networks, neural, digits, plain=True), None, "cloud") as cloud,
        serving(edge_of(networks, neural, digits, cloud.url, None, plain=True), None, "edge") as edge,
    ):
        page = opened(edge.url)
        state(page, "ready")
        page.locator("#attested", has_text="Not attested").wait_for()
        assert "without TLS" in page.locator("#attested-why").inner_text()
        start_camera(page)
        shoot(page)
        page.context.close()


# --- what the edge runs on -------------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.parametrize(
    ("kind", "claim", "words"),
    [
        ("snp", "Attested guest: SEV-SNP evidence present", "This page has not verified it, and cannot"),
        ("milan", "Attested guest: SEV-SNP evidence present", "This page has not verified it, and cannot"),
        ("sample", "Development runtime", "It proves nothing and protects nothing"),
        ("other", "Not attested", "of a kind that this page does not know"),
        ("broken", "No evidence for now", "Nothing is known of this edge"),
    ],
)
def test_the_page_says_what_the_edge_claims_and_no_more(
    networks: Pair,
    neural: Neural,
    digits: Dataset,
    folder: Path,
    opened: Open,
    watched: Watched,
    kind: str,
    claim: str,
    words: str,
) -> None:
    nonces: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (data,) = parse_qs(urlsplit(handler.path).query)["runtime_data"]
        nonces.append(data)
        given = {
            "snp": lambda: processor("Genoa").evidence(data.encode()),
            "milan": lambda: processor("Milan").evidence(data.encode()),
            "sample": lambda: {"svn": "1", "report_data": data},
        }
        content = given.get(kind, dict)()
        send(handler, 500 if kind == "broken" else 200, content if isinstance(content, bytes) else json.dumps(content).encode())

    with answering(answer) as agent, serving(cloud_of(networks, neural, digits), folder, "cloud") as cloud:
        service = edge_of(
            networks, neural, digits, cloud.url, folder, token=Token(SECRET.encode()), agent=AttestationAgent(agent)
        )
        with serving(service, folder, "edge", demand=False) as edge:
            page = opened(edge.url)
            state(page, "asks")
            assert page.locator("#attested").inner_text() == "Not known yet"
            admit(page)
            page.locator("#attested", has_text=claim).wait_for()
            assert words in page.locator("#attested-why").inner_text()
            how = page.locator("#attested-how")
            assert how.is_visible() == (kind in ("snp", "milan", "other"))
            warning = page.locator("#attested-warning")
            assert warning.is_visible() == (kind == "milan")
            if kind == "milan":
                assert "arXiv 2605.12990" in warning.inner_text()
            if how.is_visible():
                assert f"workbench recognize picture.jpg --edge {edge.url}" in how.inner_text()
                assert "--policy policy.toml" in how.inner_text()
            page.get_by_role("button", name="Ask the edge again").click()
            wait_for(lambda: len(nonces) == 2, 30, "the edge was not asked again")
            assert len(set(nonces)) == 2, "each time for another number"
            page.locator("#attest:not([disabled])").wait_for()
            page.context.close()
    if kind == "broken":
        assert all("502" in line for line in watched.said), watched.said
        watched.said.clear()


@pytest.mark.system
def test_a_transient_failure_to_give_evidence_is_asked_again(
    networks: Pair,
    neural: Neural,
    digits: Dataset,
    folder: Path,
    opened: Open,
    watched: Watched,
    files: list[bytes],
    tmp_path: Path,
) -> None:
    nonces: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonces.extend(parse_qs(urlsplit(handler.path).query)["runtime_data"])
        evidence = {"svn": "1", "report_data": nonces[-1]}
        send(handler, 500 if len(nonces) == 1 else 200, json.dumps(evidence).encode())

    with answering(answer) as agent, serving(cloud_of(networks, neural, digits), folder, "cloud") as cloud:
        service = edge_of(
            networks, neural, digits, cloud.url, folder, token=Token(SECRET.encode()), agent=AttestationAgent(agent)
        )
        with serving(service, folder, "edge", demand=False) as edge:
            page = opened(edge.url)
            admit(page)
            page.locator("#attested", has_text="No evidence for now").wait_for()
            for count in (2, 4):
                page.get_by_label("Choose pictures").first.set_input_files(cards(files[:2], tmp_path))
                page.locator("#strip li").nth(count - 1).wait_for()
                page.locator("#attested", has_text="Development runtime").wait_for()
            page.context.close()
    assert len(nonces) == 2, "evidence that came is not requested again"
    assert all("502" in line for line in watched.said), watched.said
    watched.said.clear()


@pytest.mark.system
def test_the_page_recognises_a_milan_by_report_or_certificate(page: Page) -> None:
    old = {"version": 2, "cpuid": bytes(3)}  # before version 3 no report has the CPUID
    cases = [
        ("Milan", processor("Milan").evidence()),
        ("Milan", processor("Milan", PROVIDER).evidence()),
        ("Milan", processor("Milan").evidence(**old)),
        ("other", processor("Genoa").evidence()),
        ("other", processor("Turin").evidence()),
        ("other", processor("Genoa").evidence(**old)),
        ("unknown", processor("Milan").evidence(**old) | {"cert_chain": None}),
        ("unknown", {"attestation_report": None}),
        ("unknown", {"attestation_report": {"version": 3, "cpuid_fam_id": "25"}, "cert_chain": [None, {"data": "x"}, 7]}),
    ]
    script = "async (all) => { const trust = await import('/trust.js'); return all.map(trust.productOf) }"
    assert page.evaluate(script, [evidence for _, evidence in cases]) == [product for product, _ in cases]


@pytest.mark.system
def test_an_edge_without_an_agent_is_not_attested(page: Page) -> None:
    page.locator("#attested", has_text="Not attested").wait_for()
    assert "no attestation agent" in page.locator("#attested-why").inner_text()


# --- for everyone ----------------------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_page_can_be_used_by_everyone(
    opened: Open, both: Both, files: list[bytes], tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(both.edge.url, size, color_scheme=scheme, reduced_motion="reduce")

    def check(what: str) -> None:
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        violations = [(each["id"], each["impact"], [node["target"] for node in each["nodes"]]) for each in found]
        assert violations == [], what
        assert page.evaluate("() => document.documentElement.scrollWidth") <= size[0], "nothing is cut off"
        small = page.evaluate(
            """() => [...document.querySelectorAll('button, .button, summary, .check, input:not([type=checkbox], .unseen)')]
                .filter((each) => each.checkVisibility())
                .map((each) => [each.id || each.textContent.trim(), each.getBoundingClientRect()])
                .filter(([, box]) => box.width < 44 || box.height < 44).map(([name]) => name)"""
        )
        assert small == [], "large enough for a thumb"

    state(page, "asks")
    check("before admission")
    admit(page)
    start_camera(page)
    page.locator("#settings summary").click()
    page.get_by_label("Choose pictures").first.set_input_files(cards(files[:3], tmp_path))
    page.locator("#strip li").nth(2).wait_for()
    set_batch(page, 16, 8)
    page.get_by_role("button", name="Send", exact=True).click()
    page.locator("#batch-said", has_text="Done").wait_for()
    check("with a result")


@pytest.fixture(scope="module")
def files(digits: Dataset) -> list[bytes]:
    return Jpeg().encode_each(to_float(digits.test.images[:60]))

"""The page: it escapes text, is self-contained, and works in a real browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from env.frames import FrameCache
from env.replay import main
from env.store import TrajectoryStore
from env.types import Scores, StopReason, Trajectory
from env.viewer.page import render_page, write_page
from tests.helpers.browser import open_page
from tests.helpers.replay_samples import ATTACK, answer_text, box, clip_task, episode, select_text, small_task

WEIGHTS = {"format": 0.5, "interval_iou": 1.0}


def attacked(folder: Path) -> list[Trajectory]:
    """Return three trajectories with markup that would run in each of their texts."""
    task = replace(small_task(folder / "video", f"the box {ATTACK}"), family="motion" + ATTACK, task_id="t" + ATTACK)
    masks = {idx: box(8, 8, 24, 36) for idx in range(10, 20)}
    scores = Scores(1.25, {"format": 1.0, "interval_iou": 0.75, "gain" + ATTACK: None})
    texts = [select_text(5, 25, 12, f"Step 1. {ATTACK}"), answer_text(10, 19, 12, "Step 1. Seen.")]
    return [
        episode(task, texts, masks, step=0, scores=scores),
        episode(task, [f"<think>{ATTACK}</think>{ATTACK}[SEG]"], {}, step=7),
        Trajectory(f"9/{ATTACK}", task, 9, 0, error=ATTACK),
    ]


class Elements(HTMLParser):
    """Names and attributes of all elements of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_no_stored_text_becomes_markup(tmp_path):
    html = render_page(attacked(tmp_path), f"run {ATTACK}", WEIGHTS, FrameCache(), note=ATTACK)
    found = Elements(html).found
    assert [attributes for tag, attributes in found if tag == "script"] == [
        {"type": "application/json", "id": "images"},
        {},
    ]
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]
    assert not [attributes for tag, attributes in found if tag == "img" and "src" in attributes]
    assert "<script>window" not in html
    assert html.count("&lt;script&gt;window.hacked=1") > 10


def test_the_page_is_self_contained(tmp_path):
    html = render_page(attacked(tmp_path), "run", WEIGHTS, FrameCache())
    addresses = [
        value for _, attributes in Elements(html).found for name, value in attributes.items() if name in ("src", "href")
    ]
    assert addresses == ["data:,"]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;") or policy[1].startswith("default-src 'none'")
    assert "unsafe" not in policy[1]


def test_a_frame_is_embedded_once_for_all_siblings(tmp_path):
    one = attacked(tmp_path)[:1]
    many = [replace(one[0], trajectory_id=f"0/t/{sibling}", sibling=sibling) for sibling in range(8)]

    def images(trajectories: list[Trajectory]) -> list[str]:
        html = render_page(trajectories, "run", WEIGHTS, FrameCache())
        block = re.search(r'id="images">(.*?)</script>', html, re.DOTALL)
        assert block is not None
        return json.loads(block[1])

    assert images(many) == images(one)
    assert len(set(images(one))) == len(images(one))


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path):
    trajectory = episode(small_task(tmp_path / "video"), ["<think>\ud800</think>"], {})
    write_page(tmp_path / "page.html", render_page([trajectory], "run", {}, FrameCache()))
    assert '<p class="text">?</p>' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_command_caps_a_page(tmp_path, capsys):
    task = small_task(tmp_path / "video")
    many = [episode(task, [answer_text(0, 3, 1)], {}, sibling=sibling) for sibling in range(45)]
    TrajectoryStore(tmp_path / "trajectories").append(many)
    page = tmp_path / "out" / "page.html"
    assert main([str(tmp_path), "--html", str(page)]) == 0
    assert "40 of 45 trajectories" in capsys.readouterr().out
    assert page.read_text().count("<article") == 40
    assert "the first 40 of 45" in page.read_text()
    assert main([str(tmp_path), "--html", str(page), "--limit", "45"]) == 0
    assert page.read_text().count("<article") == 45


def test_moved_videos_leave_a_page_without_images(tmp_path):
    trajectory = attacked(tmp_path)[0]
    (tmp_path / "video").rename(tmp_path / "elsewhere")
    html = render_page([trajectory], "run", WEIGHTS, FrameCache())
    assert "no image" in html
    assert "data-image=" not in html


def test_a_trajectory_without_turns_shows_its_masks(tmp_path):
    """Masks over the whole video, with a gold outline where there is one; nothing about turns."""
    task = small_task(tmp_path / "video")
    masks = {idx: box(8, 8, 24, 36) for idx in range(40)}
    scores = Scores(0.75, {"tracklet_jf": 0.75, "format": None})
    one = Trajectory("-1/made/0", task, -1, 0, stop_reason=StopReason.SINGLE_PASS, masks=masks, scores=scores)
    page_path = tmp_path / "page.html"
    write_page(page_path, render_page([one], "run", WEIGHTS, FrameCache()))
    html = page_path.read_text()
    assert "Masks over the video" in html and "40 of 40 frames have a stored mask" in html
    assert html.count('<path class="pred"') == 12 and html.count('<path class="gold"') == 3
    assert "<span>no turns</span>" in html and 'class="turn"' not in html and "diamond" not in html
    assert "predicted mask in [0, 40)" in html and "does not apply" in html
    with open_page(page_path) as opened:
        page = opened.page
        assert page.locator("article:visible .badge").inner_text() == "single_pass"
        assert page.locator("article:visible .finals figure").count() == 12
        page.select_option("#stop", "single_pass")
        assert page.locator("#list li:visible").count() == 1
        assert (opened.errors, opened.requests) == ([], [])


def test_an_empty_page_has_a_message(tmp_path):
    assert "No trajectory passes the filter" in render_page([], "run", {}, FrameCache())


def test_the_page_works_in_a_browser(tmp_path):
    page_path = tmp_path / "page.html"
    write_page(page_path, render_page(attacked(tmp_path), "run", WEIGHTS, FrameCache()))
    with open_page(page_path) as opened:
        page = opened.page
        items, articles = page.locator("#list button"), page.locator("article:visible")
        assert items.count() == 3
        assert articles.count() == 1
        assert articles.locator(".turn").count() == 2
        assert "Step 1. <script>window.hacked=1</script>" in articles.locator(".text").first.inner_text()
        assert articles.locator("tr.total").inner_text().split() == ["total", "1.2500"]
        assert page.evaluate("[...document.images].filter((i) => i.src).every((i) => i.complete && i.naturalWidth > 0)")
        items.nth(1).click()
        assert articles.locator(".turn").count() == 1
        assert "malformed" in articles.locator(".turn-head").inner_text()
        page.keyboard.press("j")
        assert ATTACK in articles.locator(".failure").inner_text()
        page.fill("#query", "no such words")
        assert page.locator("#list li:visible").count() == 0
        page.fill("#query", "THE BOX")
        assert page.locator("#list li:visible").count() == 3
        page.fill("#step", "1:")
        assert page.locator("#list li:visible").count() == 2
        page.fill("#step", "")
        page.select_option("#stop", StopReason.ERROR.value)
        assert page.locator("#count").inner_text() == "1 of 3"
        page.select_option("#stop", "")
        page.fill("#low", "1")
        assert page.locator("#list li:visible").count() == 1
        items.nth(0).click()
        assert page.locator("article:visible path.gold:visible").count() > 0
        page.uncheck("#show-gold")
        assert page.locator("article:visible path.gold:visible").count() == 0
        assert page.evaluate("window.hacked") is None
        assert opened.errors == []
        assert opened.requests == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_real_clip_with_real_masks_renders(tmp_path, clips, dark: bool):
    task = clip_task(clips / "blackswan", 1, "a black swan")
    masks = {idx: rle for idx, rle in enumerate(task.gold) if rle is not None}
    trajectory = episode(task, [select_text(10, 30, 20), answer_text(0, 49, 25)], masks)
    write_page(tmp_path / "page.html", render_page([trajectory], "clips", {}, FrameCache()))
    with open_page(tmp_path / "page.html", dark=dark) as opened:
        assert "J 1.000" in opened.page.locator(".finals figcaption").first.inner_text()
        shot = opened.page.screenshot(path=tmp_path / "page.png")
        assert len(shot) > 20_000
        assert (opened.errors, opened.requests) == ([], [])

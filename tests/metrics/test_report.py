"""The report as a file; ``test_report_browser.py`` looks at it as a browser draws it."""

from __future__ import annotations

import re
from pathlib import Path


def test_it_is_one_file_with_everything_in_it(report_page: Path) -> None:
    text = report_page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "<script" not in text
    assert "clips &lt;1&gt;" in text
    assert "a &lt;bowl&gt; &amp; a drum" in text
    assert "cannot be read as media" in text
    assert "DeSync, absolute mean: 0.250 s (0.200 to 0.300), chance level 1.05; signed mean: -0.100 s" in text
    assert text.count("<svg") == 2
    assert text.count("<video") == 2
    for measure in ("av_align_svg", "av_align_2023", "av_align_2025", "contact_f1", "synchrony"):
        assert f"<td>{measure}<td>" in text

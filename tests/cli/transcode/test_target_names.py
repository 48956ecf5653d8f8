"""Names of new files: none twice, whatever the file system."""

from __future__ import annotations

from pillow_mcquic.cli.transcode.target_names import TargetNames


def test_the_suffix_is_replaced() -> None:
    assert TargetNames({}, ".mcq").target_of("b/a.tar.png") == "b/a.tar.mcq"


def test_the_later_of_two_keeps_its_suffix() -> None:
    names = TargetNames({}, ".mcq")
    assert [names.target_of(name) for name in ("a.jpg", "a.png", "A.PNG")] == ["a.mcq", "a.png.mcq", "A.PNG.2.mcq"]


def test_what_was_planned_stays() -> None:
    names = TargetNames({"a.png": "a.mcq"}, ".mcq")
    assert names.target_of("a.bmp") == "a.bmp.mcq"
    assert names.target_of("a.png") == "a.mcq"

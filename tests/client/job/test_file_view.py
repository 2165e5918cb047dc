from pathlib import Path

from wardround.client.job.file_view import steps_of


def test_links_on_the_way_are_found(tmp_path: Path) -> None:
    real = tmp_path.resolve() / "real"
    (real / "bin").mkdir(parents=True)
    (real / "bin" / "python").touch()
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(real)
    (tmp_path / "up").symlink_to("first/../real/bin")
    links, end = steps_of(tmp_path / "first" / "bin" / "python")
    assert end == real / "bin" / "python"
    assert {place.name: target for place, target in links.items()} == {"first": "second", "second": str(real)}
    assert steps_of(tmp_path / "up" / "python")[1] == real / "bin" / "python"


def test_what_is_not_there_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("/no/such/place")
    assert steps_of(tmp_path / "no")[1] is None
    assert steps_of(tmp_path / "loop" / "x")[1] is None
    assert steps_of(tmp_path / "nowhere")[1] is None
    assert steps_of(Path("/"))[1] == Path("/")

"""The documents say what is there: links lead somewhere, maps are complete, the shown client works."""

import importlib.util
import re
from pathlib import Path

import pytest

from server.app import App
from server.cli import COMMANDS
from server.settings import Settings
from tests.server.serving import make_settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def map_of_files() -> list[str]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    folder, named = "", []
    for line in text.splitlines():
        if line.startswith("### "):
            folder = line.removeprefix("### ")
        elif folder and (match := re.match(r"\| `(\w+\.py)` \| .+ \|", line)):
            named.append(folder + match[1])
    return named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_link_leads_somewhere(document: Path) -> None:
    """Relative links and pictures of a document exist."""
    for target in _LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_file_map_names_every_module() -> None:
    """No module is missing in ARCHITECTURE.md, none is there that is gone: run `python docs/file_map.py`."""
    spec = importlib.util.spec_from_file_location("file_map", ROOT / "docs" / "file_map.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert sorted(map_of_files()) == sorted(path.as_posix() for path in script.modules())


def test_the_readme_names_every_command() -> None:
    """The table of commands is that of the program."""
    named = re.findall(r"^\| `freshet ([\w-]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(COMMANDS)


def test_the_operators_guide_names_every_setting() -> None:
    """Every setting, by its full name, is in the table of docs/operate.md."""
    told = (ROOT / "docs" / "operate.md").read_text()
    for name, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for setting in [f"{name}.{key}" for key in inner] if inner else [name]:
            assert f"`{setting}`" in told, setting


def test_the_client_of_the_readme_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run as it stands there, against a server: five items, and a click that is learned."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    app = App(make_settings(tmp_path))
    app.start()
    try:
        exec(code.replace("127.0.0.1:50051", app.addresses.serving), {})  # noqa: S102 - it is ours
        assert len(capsys.readouterr().out.splitlines()) == 5
        assert app.loop
        assert app.loop.status().counts["clicks_joined"] == 1
    finally:
        app.stop(1.0)

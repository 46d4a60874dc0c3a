"""The README's picture: the last screen of a real `freshet demo`, as SVG.

    python -m benchmarks.demo_picture [SECONDS]

Runs the demo in a pseudo-terminal of its own (Unix only) and draws what it showed last.
"""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 100, 30
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "demo.svg"
_REDRAWN = re.compile(rb"(?:\x1b\[1A\x1b\[2K)+")  # how a live view goes back to its first line
_ENDED = b"\x1b[?25h"  # the cursor is shown again
_FONT_FACES = re.compile(r"@font-face \{.*?\}", re.DOTALL)  # fonts from elsewhere


def main() -> int:
    seconds = sys.argv[1] if len(sys.argv) > 1 else "40"
    shown = in_terminal([sys.executable, "-m", "server", "demo", "--seconds", seconds])
    screen = _REDRAWN.split(shown.partition(_ENDED)[0])[-1]
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(screen.decode().replace("\r", "")))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(_FONT_FACES.sub("", console.export_svg(title="freshet demo")))
    print(PICTURE)
    return 0


def in_terminal(command: list[str]) -> bytes:
    """What a command writes to a terminal of its own."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", PYTHONIOENCODING="utf-8")
        os.execv(command[0], command)  # noqa: S606 - the command is this program's own
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    parts = []
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # how a terminal ends on Linux
            break
        if not part:
            break
        parts.append(part)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"the demo ended with status {status}")
    return b"".join(parts)


if __name__ == "__main__":
    sys.exit(main())

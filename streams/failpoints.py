"""Named places where a test may end the process, to prove that a crash there loses and doubles nothing.

FRESHET_FAILPOINT="name" or "name:n" ends the process, as SIGKILL would, the first or n-th time it passes `name`.
"""

import os

EXIT_CODE = 77

_name, _, _times = os.environ.get("FRESHET_FAILPOINT", "").partition(":")
_left = int(_times or 1)


def failpoint(name: str) -> None:
    """End the process here if it was asked to."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left <= 0:
        os._exit(EXIT_CODE)

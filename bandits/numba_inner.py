"""The decorator of compiled functions that only compiled functions call.

`njit` also compiles what Python would call a function through: it unpacks every argument and packs what comes back,
which is a fifth of what compiling takes. A function marked `inner` has none of that. Called from Python it runs as
the Python that it is written in, or fails where that cannot be: it never runs compiled.
"""

from typing import Any

from numba.extending import register_jitable as _register_jitable


def inner(function: Any = None, **options: Any) -> Any:
    """Mark a function as called by compiled functions alone; `options` are those of `numba.njit`."""
    mark = _register_jitable(no_cfunc_wrapper=True, **options)
    return mark if function is None else mark(function)

"""What a cached compiled function depends on beyond its own file.

Numba compiles a function anew when its file changes, but does not see the files of what it calls. A number that
stands for all of these, taken from outside the function, becomes part of the key under which Numba finds it.
"""

from hashlib import blake2b
from types import CodeType, FunctionType, ModuleType


def fingerprint(*modules: ModuleType) -> int:
    """A number >= 0 that changes with the code of any function of these modules, and with their numeric constants.

    Args:
        modules: all that a compiled function calls into.
    """
    parts: list[str] = []
    for module in modules:
        for name, value in sorted(vars(module).items()):
            function = getattr(value, "py_func", None) or getattr(value, "_defn", None) or value
            if isinstance(function, FunctionType):
                parts.append(name + _text(function.__code__))
            elif isinstance(value, (int, float, tuple)):
                parts.append(f"{name}={value!r}")
    return int.from_bytes(blake2b(";".join(parts).encode(), digest_size=8).digest(), "little") >> 1


def _text(code: CodeType) -> str:
    """Code without what differs from run to run."""
    return repr((code.co_code, [_constant(part) for part in code.co_consts], code.co_names, code.co_varnames))


def _constant(part: object) -> str:
    if isinstance(part, CodeType):
        return _text(part)
    return repr(sorted(map(repr, part)) if isinstance(part, frozenset) else part)

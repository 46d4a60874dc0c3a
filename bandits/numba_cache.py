"""What a cached compiled function depends on beyond its own file.

Numba compiles a function anew when its file changes, but does not see the files of what it calls. A number that
stands for all of these, taken from outside the function, becomes part of the key under which Numba finds it.
"""

from types import CodeType, FunctionType, ModuleType

from bandits.hashing import hash_strings


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
    return int(hash_strings([";".join(parts)])[0, 0]) >> 1


def _text(code: CodeType) -> str:
    """Code without what differs from run to run."""
    constants = [_text(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return repr((code.co_code, constants, code.co_names, code.co_varnames))

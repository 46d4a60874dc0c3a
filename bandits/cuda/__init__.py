"""The CUDA C++ kernels, as the one text that is compiled on the machine with the GPU.

Invariants: no number stands in two languages, what the kernels share with the processor's code is handed to them as
definitions; nothing but the text of this folder is compiled, no header is needed.
"""

from importlib.resources import files

from bandits import draws, policies, sums

# Without fused multiply-adds a score has the bits that the processor gives it.
OPTIONS = ("-std=c++17", "--fmad=false")

BLOCK = 256  # threads of a block; a whole number of LANES
LANES = 32  # threads that share a fact or a row: a line of 32 clusters is read at once
LONGEST_SCAN = 256  # rows up to this length are compared whole
_PARTS = ("rows", "draws", "add", "export", "score", "rank")


def source() -> str:
    """All kernels, with the definitions that they need."""
    from bandits import numba_scores as scores  # names the columns of a policy, and its modes

    names = {f"POLICY_{name.upper()}": column for column, name in enumerate(scores.POLICY)}
    names |= {
        "MODE_UCB": scores.UCB,
        "MODE_THOMPSON": scores.THOMPSON_MODE,
        "MODE_UNIFORM": scores.UNIFORM,
        "MODE_RANDOMIZED": scores.RANDOMIZED,
        "STREAM_TIES": draws.TIES,
        "STREAM_THOMPSON": draws.THOMPSON,
        "STREAM_OPTIMISM": draws.OPTIMISM,
        "COARSE": draws.COARSE,
        "LANES": LANES,
        "LONGEST_SCAN": LONGEST_SCAN,
    }
    reals = {
        "SCALE_1": 1.0 / sums.UNIT,
        "SCALE_2": 1.0 / sums.UNIT**2,
        "STEADY": policies.STEADY,
        "LOWEST_RATE": policies.LOWEST_RATE,
        "HIGHEST_RATE": policies.HIGHEST_RATE,
    }
    defined = [f"#define {name} {value}" for name, value in names.items()]
    defined += [f"#define {name} {value!r}" for name, value in reals.items()]  # the shortest text of the same bits
    defined.append(f"#define LARGEST_SUM {int(sums.LARGEST)}ULL")
    parts = [(files(__name__) / f"{part}.cu").read_text("utf-8") for part in _PARTS]
    return "\n".join([*defined, *parts])

"""The public contract: nothing that was promised changes, and names follow one style."""

import copy
import json
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from google.protobuf.descriptor import EnumDescriptor

from tests.protos.descriptor_contract import BASELINE, ROOT, Contract, breaks, contract, files

SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
PASCAL = re.compile(r"([A-Z][a-z0-9]*)+")


def test_nothing_promised_has_changed() -> None:
    """Every message, field, number, type, label, enum value and method of the baseline is as it was."""
    problems = breaks(json.loads(BASELINE.read_text()), contract())
    assert not problems, "\n".join(["the protobuf contract is broken:", *problems])


def drop_field(now: Contract) -> None:
    del now["messages"]["freshet.v1.Click"]["reward"]


def rename_field(now: Contract) -> None:
    fields = now["messages"]["freshet.v1.Click"]
    fields["gain"] = fields.pop("reward")


def renumber(now: Contract) -> None:
    now["messages"]["freshet.v1.Click"]["reward"]["number"] = 9


def retype(now: Contract) -> None:
    now["messages"]["freshet.v1.Click"]["reward"]["type"] = "float"


def relabel(now: Contract) -> None:
    now["messages"]["freshet.v1.Click"]["reward"]["label"] = "plain"


def drop_message(now: Contract) -> None:
    del now["messages"]["freshet.v1.Click"]


def renumber_value(now: Contract) -> None:
    now["enums"]["freshet.v1.Mode"]["MODE_UCB"] = 9


def drop_method(now: Contract) -> None:
    del now["services"]["freshet.v1.RecommenderService"]["Score"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (drop_field, "freshet.v1.Click.reward: was .* is gone"),
        (rename_field, "freshet.v1.Click.reward: was .* is gone"),
        (renumber, "freshet.v1.Click.reward: was .*'number': 3.* is .*'number': 9"),
        (retype, "freshet.v1.Click.reward: was .*double.* is .*float"),
        (relabel, "freshet.v1.Click.reward: was .*optional.* is .*plain"),
        (drop_message, "freshet.v1.Click: removed from messages"),
        (renumber_value, "freshet.v1.Mode.MODE_UCB: was 2, is 9"),
        (drop_method, "freshet.v1.RecommenderService.Score: was .* is gone"),
    ],
)
def test_a_breaking_change_is_told(change: Callable[[Contract], None], told: str) -> None:
    """The comparison itself sees each kind of break, and says where."""
    now = copy.deepcopy(contract())
    change(now)
    problems = breaks(contract(), now)
    assert len(problems) == 1
    assert re.fullmatch(told + ".*", problems[0])


def test_an_addition_is_no_break() -> None:
    """New fields, messages, values and methods pass."""
    now = copy.deepcopy(contract())
    now["messages"]["freshet.v1.Click"]["extra"] = {"number": 99}
    now["messages"]["freshet.v1.Extra"] = {}
    now["enums"]["freshet.v1.Mode"]["MODE_EXTRA"] = 99
    now["services"]["freshet.v1.RecommenderService"]["Extra"] = []
    assert breaks(contract(), now) == []


def test_files_lie_where_their_package_says() -> None:
    """Package freshet.v1 in freshet/v1, file names in snake case."""
    for file in files():
        assert file.package == "freshet.v1"
        assert re.fullmatch(rf"freshet/v1/{SNAKE.pattern}\.proto", file.name)


def test_names_follow_the_style() -> None:
    """Messages, services and methods in Pascal case, fields and oneofs in snake case, services end in Service."""
    found = contract()
    fields = {field for members in found["messages"].values() for field in members}
    oneofs = {field["oneof"] for members in found["messages"].values() for field in members.values()} - {""}
    assert [name for name in fields | oneofs if not SNAKE.fullmatch(name)] == []
    methods = {method for members in found["services"].values() for method in members}
    types = {name.rpartition(".")[2] for kind in found.values() for name in kind}
    assert [name for name in methods | types if not PASCAL.fullmatch(name)] == []
    assert [name for name in found["services"] if not name.endswith("Service")] == []


def test_enums_follow_the_style() -> None:
    """Zero means unspecified, and every value is prefixed with the enum's name."""
    enums: list[EnumDescriptor] = [enum for file in files() for enum in file.enum_types_by_name.values()]
    assert enums
    for enum in enums:
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
        assert enum.values_by_number[0].name == prefix + "UNSPECIFIED"
        assert [value.name for value in enum.values if not re.fullmatch(prefix + "[A-Z0-9_]+", value.name)] == []


def test_each_method_has_messages_of_its_own() -> None:
    """<Method>Request and <Method>Response, used by no other method, so that each can grow alone."""
    pairs = [
        (method, *types[:2]) for methods in contract()["services"].values() for method, types in methods.items()
    ]
    for method, request, response in pairs:
        assert request == f"freshet.v1.{method}Request"
        assert response == f"freshet.v1.{method}Response"


def test_services_methods_and_enums_are_explained() -> None:
    """In the sources each has a comment before it, and so has each file."""
    for path in sorted((ROOT / "protos" / "freshet" / "v1").glob("*.proto")):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("// "), f"{path.name} says what it is for"
        for before, line in pairwise(lines):
            if re.match(r"(enum|service) |  rpc ", line):
                assert before.strip().startswith("//"), f"{path.name}: {line.strip()} has no comment"

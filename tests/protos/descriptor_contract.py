"""The protobuf contract as plain data, to be kept in a file and compared.

`python -m tests.protos.descriptor_contract` writes the file anew: do that when messages or fields are added, never
to silence a removal.
"""

import importlib
import json
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    ServiceDescriptor,
)

ROOT = Path(__file__).parents[2]
BASELINE = Path(__file__).with_name("contract.json")

Contract = dict[str, dict[str, dict[str, Any]]]


def files() -> list[FileDescriptor]:
    """Descriptors of every .proto file of the project."""
    names = sorted(path.stem for path in (ROOT / "protos" / "freshet" / "v1").glob("*.proto"))
    return [importlib.import_module(f"freshet.v1.{name}_pb2").DESCRIPTOR for name in names]


def contract() -> Contract:
    """Fields of each message, values of each enum, methods of each service, by full name."""
    found: Contract = {"messages": {}, "enums": {}, "services": {}}
    for file in files():
        for message in file.message_types_by_name.values():
            _add_message(found, message)
        for enum in file.enum_types_by_name.values():
            _add_enum(found, enum)
        for service in file.services_by_name.values():
            found["services"][service.full_name] = _methods(service)
    return found


def breaks(old: Contract, new: Contract) -> list[str]:
    """What a reader or writer of the old contract would stumble over, one line each. Additions are none."""
    problems = []
    for kind, entries in old.items():
        for name, members in entries.items():
            if name not in new[kind]:
                problems.append(f"{name}: removed from {kind}")
                continue
            for member, was in members.items():
                now = new[kind][name].get(member)
                if now != was:
                    problems.append(f"{name}.{member}: was {was}, is {now or 'gone'}")
    return problems


def _add_message(found: Contract, message: Descriptor) -> None:
    found["messages"][message.full_name] = {field.name: _field(field) for field in message.fields}
    for nested in message.nested_types:
        _add_message(found, nested)
    for enum in message.enum_types:
        _add_enum(found, enum)


def _add_enum(found: Contract, enum: EnumDescriptor) -> None:
    found["enums"][enum.full_name] = {value.name: value.number for value in enum.values}


def _field(field: FieldDescriptor) -> dict[str, Any]:
    kinds = {getattr(field, name): name[5:].lower() for name in dir(field) if name.startswith("TYPE_")}
    points_to = field.message_type or field.enum_type
    label = "repeated" if field.is_repeated else "optional" if field.has_presence else "plain"
    oneof = field.containing_oneof
    return {
        "number": field.number,
        "type": points_to.full_name if points_to else kinds[field.type],
        "label": label,
        "oneof": oneof.name if oneof and not oneof.name.startswith("_") else "",
        "json": field.json_name,
    }


def _methods(service: ServiceDescriptor) -> dict[str, Any]:
    return {
        method.name: [
            method.input_type.full_name,
            method.output_type.full_name,
            "stream" if method.client_streaming else "one",
            "stream" if method.server_streaming else "one",
        ]
        for method in service.methods
    }


if __name__ == "__main__":
    BASELINE.write_text(json.dumps(contract(), indent=1, sort_keys=True) + "\n")

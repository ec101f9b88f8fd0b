"""A bill of materials in CycloneDX 1.5 of the wheels in a directory, from what they say of themselves."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
import zipfile
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

__all__ = ["document"]

_PROGRAM = "cyoloctl"
_TOOL = {"type": "application", "name": "tools.sbom", "group": _PROGRAM}


def document(wheels: Path, version: str, epoch: int) -> str:
    """The bill, as JSON; depends on the arguments only.

    version: of the program that all of them are for.  epoch: seconds since 1970.
    """
    components: dict[str, dict[str, Any]] = {}
    needs: dict[str, set[str]] = {}
    for wheel in sorted(wheels.glob("*.whl")):
        metadata = _metadata(wheel)
        name = _canonical(metadata["Name"])
        component = components.setdefault(name, _component(name, metadata))
        component["components"].append(_file(wheel, component["bom-ref"]))
        needs.setdefault(name, set()).update(_required(metadata))
    reference = {name: component["bom-ref"] for name, component in components.items()}
    own = components.pop(_PROGRAM)
    body = {
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [_TOOL]},
            "component": {**own, "type": "application", "version": version},
        },
        "components": list(components.values()),
        "dependencies": [
            {
                "ref": reference[name],
                "dependsOn": sorted(reference[one] for one in needs[name] & {*reference}),
            }
            for name in sorted(reference)
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    head = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    }
    return json.dumps({**head, **body}, indent=2) + "\n"


def _metadata(wheel: Path) -> Message:
    """The file METADATA of a wheel (core metadata, 2.4)."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each)]
        return BytesParser().parsebytes(archive.read(name))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(name: str, metadata: Message) -> dict[str, Any]:
    version = metadata["Version"]
    package = f"pkg:pypi/{name}@{version}"
    component = {
        "type": "library",
        "bom-ref": package,
        "name": name,
        "version": version,
        "purl": package,
        "licenses": _licenses(metadata),
        "components": [],
    }
    return component if component["licenses"] else {k: v for k, v in component.items() if k != "licenses"}


def _licenses(metadata: Message) -> list[dict[str, Any]]:
    """The expression, or else what the older fields say; a field may hold the whole text of a licence."""
    if metadata["License-Expression"]:
        return [{"expression": metadata["License-Expression"]}]
    classified = [
        each.rpartition(" :: ")[2]
        for each in metadata.get_all("Classifier", [])
        if each.startswith("License :: ") and each.count(" :: ") > 1
    ]
    said = (metadata["License"] or "").strip()
    names = classified or ([said] if said and "\n" not in said else [])
    return [{"license": {"name": name}} for name in names]


def _file(wheel: Path, package: str) -> dict[str, Any]:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return {
        "type": "file",
        "bom-ref": f"{package}#{wheel.name}",
        "name": wheel.name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _required(metadata: Message) -> set[str]:
    """Names of what a distribution always needs: not for its extras."""
    found = set()
    for line in metadata.get_all("Requires-Dist", []):
        requirement, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", requirement.strip())
        if name is not None and "extra" not in marker:
            found.add(_canonical(name.group()))
    return found

"""The jars of the pinned Apache Kafka, resolved once through Maven into a cache outside the repository.

Promises:
- A cache directory is used only if its marker lists exactly the jars in it, with their sizes; half a
  download is never run.
- A complete cache needs neither the network nor ``mvn``.
- Its name holds the version and a digest of pom.xml, so a changed pin never mixes with older jars.
- Concurrent first uses resolve into directories of their own; the first to finish is kept.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
JAVA_VERSION_MIN = 17
RESOLVE_TIMEOUT_S = 900
_MARKER = "complete.json"


class KafkaMissingError(RuntimeError):
    """No local broker can run on this machine; the message is one sentence saying what is missing."""


def kafka_version() -> str:
    """The pinned version of Apache Kafka, for example ``"4.3.1"``."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", POM.read_text())
    if found is None:
        raise ValueError(f"no kafka.version in {POM}")
    return found.group(1)


def cache_dir() -> Path:
    """Where the jars of this pom.xml are kept: under FRESHET_KAFKA_CACHE or the user's cache folder."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("FRESHET_KAFKA_CACHE") or user_cache / "freshet" / "kafka")
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    return root / f"{kafka_version()}-{digest}"


def java() -> str:
    """The path of a Java runtime of version 17 or newer, from JAVA_HOME or PATH.

    Raises:
        KafkaMissingError: there is none, or it is older.
    """
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if program is None:
        where = f"JAVA_HOME ({home})" if home else "PATH"
        raise KafkaMissingError(f"Kafka {kafka_version()} needs Java 17 or newer; no java in {where}")
    shown = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    found = re.search(r'version "(?:1\.)?(\d+)', shown.stderr)
    if found is None or int(found.group(1)) < JAVA_VERSION_MIN:
        version = found.group(1) if found else "unknown"
        raise KafkaMissingError(f"Kafka {kafka_version()} needs Java 17 or newer; {program} is {version}")
    return program


def is_complete(folder: Path) -> bool:
    """Whether a folder holds every jar that its marker lists, each with its recorded size."""
    try:
        expected = json.loads((folder / _MARKER).read_text())
    except (OSError, ValueError):
        return False
    return bool(expected) and expected == _sizes(folder)


def jars() -> Path:
    """The folder with all jars of the broker; the first call downloads them.

    Raises:
        KafkaMissingError: they are not cached, and ``mvn`` is missing or cannot resolve them.
    """
    folder = cache_dir()
    if is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="resolving-") as scratch:
        fresh = Path(scratch) / "jars"
        _resolve(fresh)
        (fresh / _MARKER).write_text(json.dumps(_sizes(fresh), indent=1))
        if folder.exists() and not is_complete(folder):
            shutil.rmtree(folder)
        try:
            fresh.rename(folder)
        except OSError:
            if not is_complete(folder):  # otherwise another process was first, with the same jars
                raise
    return folder


def _sizes(folder: Path) -> dict[str, int]:
    return {jar.name: jar.stat().st_size for jar in sorted(folder.glob("*.jar"))}


def _resolve(folder: Path) -> None:
    program = shutil.which("mvn")
    if program is None:
        raise KafkaMissingError(
            f"Kafka {kafka_version()} is not cached in {cache_dir()} and mvn, which downloads it, is not in PATH"
        )
    goal = "dependency:copy-dependencies"
    command = [program, "-B", "-q", "-ntp", "--strict-checksums", "-f", str(POM), goal]
    try:
        done = subprocess.run(  # noqa: S603
            [*command, f"-DoutputDirectory={folder}"],
            capture_output=True,
            text=True,
            timeout=RESOLVE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KafkaMissingError(
            f"mvn did not resolve Kafka {kafka_version()} within {RESOLVE_TIMEOUT_S} s"
        ) from error
    if done.returncode != 0 or not _sizes(folder):
        lines = [line for line in done.stdout.splitlines() if "ERROR" in line] or [f"exit {done.returncode}"]
        raise KafkaMissingError(f"mvn could not resolve Kafka {kafka_version()}: {lines[0]}")

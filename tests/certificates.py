"""Certificates for tests, made with the `openssl` command: authorities, and who they vouch for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_DAYS = "2"


def need_openssl() -> str:
    """The command; without it the test is skipped, and under CI it fails: a green run there has seen TLS."""
    found = shutil.which("openssl")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs the openssl command, to make certificates")
        pytest.skip("NOT TESTED with certificates: no openssl command")
    return found


class Authority:
    """Vouches for certificates.

    Args:
        folder: where everything is written.
        name: of its files.

    Attributes:
        certificate: its own, PEM.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._openssl = need_openssl()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", _DAYS),
            *("-subj", f"/CN={name}", "-keyout", self._key, "-out", self.certificate),
        )

    def issue(self, name: str, *, hosts: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path]:
        """Certificate and key of somebody, PEM, the key as PKCS #8."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        self._run(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", key, "-out", request),
        )
        extensions.write_text(f"subjectAltName={hosts}\nbasicConstraints=CA:FALSE\n")
        self._run(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", _DAYS, "-extfile", extensions, "-out", certificate),
        )
        return certificate, key

    def _run(self, *arguments: object) -> None:
        command = [self._openssl, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr

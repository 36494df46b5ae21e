"""A read-only image registry on the node's loopback, for pulls that must not leave the node.

containerd asks it for every registry's images (`hosts.toml`), naming the registry in the query's
`ns`. It serves OCI layouts: the stand-ins, and what `scripts/lab image` made.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import urllib.parse
from pathlib import Path

ADDRESS = ("127.0.0.1", 5000)
LAYOUTS = (Path("/usr/local/share/lab/oci"), Path("/var/lib/lab-oci"))


def find_manifest(reference: str) -> str | None:
    """Return the digest of an image by its full name, the newest layout's first."""
    indexes = [index for layouts in LAYOUTS for index in layouts.glob("*/index.json")]
    for index in sorted(indexes, key=lambda path: path.stat().st_mtime, reverse=True):
        for entry in json.loads(index.read_text())["manifests"]:
            if entry["annotations"]["io.containerd.image.name"] == reference:
                return str(entry["digest"])
    return None


def find_blob(digest: str) -> Path | None:
    """Return the file of a blob."""
    name = digest.removeprefix("sha256:")
    if not name.isalnum():
        return None
    for layouts in LAYOUTS:
        for path in layouts.glob(f"*/blobs/sha256/{name}"):
            return path
    return None


class Handler(http.server.BaseHTTPRequestHandler):
    """The pull half of the OCI distribution protocol."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Answer with the headers of GET."""
        self.do_GET()

    def do_GET(self) -> None:
        """Serve the version check, manifests and blobs."""
        url = urllib.parse.urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        if parts == ["v2"]:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        registry = urllib.parse.parse_qs(url.query).get("ns", [""])[0]
        digest: str | None = parts[-1]
        if parts[-2] == "manifests" and not parts[-1].startswith("sha256:"):
            digest = find_manifest(f"{registry}/{'/'.join(parts[1:-2])}:{parts[-1]}")
        blob = find_blob(digest) if digest else None
        if digest is None or blob is None:
            self.send_error(404)
            return
        manifest = parts[-2] == "manifests"
        kind = "vnd.oci.image.manifest.v1+json" if manifest else "octet-stream"
        self.send_response(200)
        self.send_header("Content-Type", f"application/{kind}")
        self.send_header("Content-Length", str(blob.stat().st_size))
        self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "GET":
            with blob.open("rb") as content:
                shutil.copyfileobj(content, self.wfile)


def main() -> None:
    """Listen, say so to process 1, serve."""
    server = http.server.ThreadingHTTPServer(ADDRESS, Handler)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    server.serve_forever()


if __name__ == "__main__":
    main()

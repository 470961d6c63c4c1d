"""A DICOMweb server for tests: Debian's Orthanc with its plug-in, on this machine only, by the standard library."""

import email.parser
import email.policy
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PLUGINS = ("/usr/lib/orthanc", "/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PATIENCE = 60  # (s) until the server answers


def missing() -> str:
    """Say what is not installed; nothing if all is there."""
    if program() is None:
        return "Orthanc is not installed (Debian: orthanc)"
    return "" if plugin() else "Orthanc's DICOMweb plug-in is not installed (Debian: orthanc-dicomweb)"


def program() -> str | None:
    """Return where Orthanc is, if it is."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")


def plugin() -> Path | None:
    """Return the DICOMweb plug-in, if it is there."""
    found = [file for folder in _PLUGINS for file in sorted(Path(folder).glob("libOrthancDicomWeb.so*"))]
    return found[0] if found else None


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run a server that keeps all it has in `folder`, and lend the address of its DICOMweb interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [str(plugin())],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(program()), str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, process, folder / "log")
            yield f"{address}/dicom-web"
        finally:
            process.terminate()
            process.wait(30)


def store(address: str, files: Sequence[Path]) -> None:
    """Send files (STOW-RS)."""
    boundary = uuid.uuid4().hex
    body = b""
    for file in files:
        body += f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file.read_bytes() + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
    answer = json.loads(_ask(urllib.request.Request(f"{address}/studies", body, headers)))
    assert len(answer["00081199"]["Value"]) == len(files)
    assert not answer.get("00081198", {}).get("Value")


def query(address: str, what: str) -> list[dict]:
    """Ask what there is (QIDO-RS): "series?Modality=SEG"."""
    return json.loads(_ask(urllib.request.Request(f"{address}/{what}", headers={"Accept": "application/dicom+json"})))


def fetch(address: str, what: str) -> list[bytes]:
    """Get files (WADO-RS) of a study, a series or an instance."""
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    with _DIRECT.open(urllib.request.Request(f"{address}/{what}", headers=accept), timeout=_PATIENCE) as answer:
        start = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(start + answer.read())
    return [part.get_payload(decode=True) for part in message.iter_parts()]


def _ask(request: urllib.request.Request) -> bytes:
    with _DIRECT.open(request, timeout=_PATIENCE) as answer:
        return answer.read()


def _wait(address: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            _ask(urllib.request.Request(f"{address}/system"))
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"Orthanc does not answer:\n{log.read_text()[-2000:]}")

"""Run a bundle on another machine by ssh: a static program goes there, arrays go through its pipes, and nothing of it is left.

ssh is OpenSSH's client with the user's own configuration, so `host` is whatever that knows: user@board, a name of ~/.ssh/config, or
ssh://user@board:2222. EDGEC_SSH names another command, such as "ssh -F ./config". Passwords are not asked for.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgec.errors import DeviceError, ToolMissing, UsageError
from edgec.piped import PipedDevice, end, link

TIMEOUT = 300.0
"""Seconds that a machine may leave a request unanswered."""
_OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15")
_READY, _NO_FOLDER, _SSH_FAILED, _NOT_EXECUTED = "edgec-ready", 97, 255, 126
_SAME = {"arm64": "aarch64", "amd64": "x86_64"}
_GRACE = 5.0            # seconds for the other side to tidy up
_FULL = ("no space left", "quota exceeded", "file too large", "file size limit")


class RemoteDevice(PipedDevice):
    """A program on another machine that holds the model; it and its folder are gone when the connection ends, however that happens."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], threads: int, host: str, timeout: float = TIMEOUT) -> None:
        self._ssh, self._host, self._timeout, self._late = command(host), host, timeout, False
        if "linux" not in manifest["target"]["triple"]:
            raise DeviceError(f"{path} is for {manifest['target']['name']}, which has no operating system: ssh cannot run it")
        if manifest.get("units"):
            names = " and ".join(f"{u['name']} ({u['driver']})" for u in manifest["units"])
            raise DeviceError(f"{path} needs {names} beside the CPU, whose drivers a static program cannot load: copy the folder to {host} "
                              "and use run.py there")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            runner = link(path, manifest, Path(folder), clock=True, threads=threads)
            process = subprocess.Popen([*self._ssh, _script(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said)
            super().__init__(process, host, ending=_end)
            try:
                self._prepare(path, manifest, runner)
            except BaseException:
                _end(process)
                raise

    def _prepare(self, path: Path, manifest: Mapping[str, Any], runner: Path) -> None:
        """Copy the program and the weights, and start it."""
        machine, place = self._hello()
        wanted = manifest["requires"]["machine"]
        if _SAME.get(machine, machine) != wanted:
            raise DeviceError(f"{path} is for {wanted}, and {self._host} is {machine}")
        self._copy(runner, f"{place}/runner")
        self._copy(path / f"{manifest['c_name']}.weights.bin", f"{place}/weights")
        self._put(b"go\n")
        self.check(path, f"the processor of {self._host}")

    def _hello(self) -> tuple[str, str]:
        """The processor of the machine, and a new folder there; what a login shell prints is passed over."""
        with self._watched():
            for line in self._process.stdout or ():
                words = line.decode(errors="replace").rstrip("\n").split(" ", 2)
                if words[0] == _READY and len(words) == 3:  # noqa: PLR2004
                    return words[1], words[2]
        raise self._broken()

    def _copy(self, file: Path, place: str) -> None:
        try:
            with file.open("rb") as data:
                done = subprocess.run([*self._ssh, f"sh -c {shlex.quote(f'cat > {shlex.quote(place)}')}"], stdin=data, capture_output=True,
                                      timeout=self._timeout, check=False)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self._host} has not taken {file.name} in {self._timeout:g} seconds") from None
        if done.returncode:
            reason = _last(done.stderr) or f"status {done.returncode}"
            full = any(word in reason.lower() for word in _FULL)
            raise DeviceError(f"{self._host} has no room for {file.name} ({file.stat().st_size} bytes): {reason}" if full else
                              f"{file.name} cannot be copied to {self._host}: {reason}")

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """End the connection when the other side is silent for too long."""
        timer = threading.Timer(self._timeout, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._late = True
        self._process.kill()

    def _get(self, size: int) -> bytes:
        with self._watched():
            return super()._get(size)

    def _put(self, data: bytes) -> None:
        with self._watched():
            super()._put(data)

    def _broken(self) -> DeviceError:
        if self._late:
            return DeviceError(f"{self._host} has not answered in {self._timeout:g} seconds")
        with suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            status = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            status = _SSH_FAILED
        self._said.seek(0)
        reason = _last(self._said.read()) or f"status {status}"
        if status == _SSH_FAILED:
            key = "; a key must be set up, because no password is asked for: ssh-copy-id does that" if "ermission denied" in reason else ""
            return DeviceError(f"{self._host} cannot be reached: {reason}{key}")
        if status == _NO_FOLDER:
            return DeviceError(f"{self._host} gives no folder to work in: {reason}")
        if status == _NOT_EXECUTED:
            return DeviceError(f"{self._host} cannot execute the model's program: {reason}")
        return DeviceError(f"the model on {self._host} ended: {reason}")


def command(host: str) -> list[str]:
    """The words of ssh to a host, without what it shall do there.

    UsageError for a host that ssh would take for an option, ToolMissing without ssh.
    """
    if not host or host.startswith("-") or any(c.isspace() for c in host):
        raise UsageError(f"--on {host!r}: write user@host, a name of ~/.ssh/config, or ssh://user@host:port")
    words = os.environ.get("EDGEC_SSH", "").split() or ["ssh"]
    found = shutil.which(words[0])
    if not found:
        raise ToolMissing(f"{words[0]}, which runs bundles on other machines, is not installed", "apt-get install openssh-client")
    return [found, *words[1:], *_OPTIONS, host]


def _script(threads: int) -> str:
    """What a shell does there: make a folder, tell of it, wait until it is filled, run what is in it, and remove it whatever happens."""
    script = (f'D=$(mktemp -d "${{TMPDIR:-/tmp}}/edgec.XXXXXX") || exit {_NO_FOLDER}; '
              'trap "rm -rf \\"$D\\"" EXIT; trap "exit 98" HUP INT TERM; '
              f'echo "{_READY} $(uname -m) $D"; read -r go || exit 96; '
              f'chmod 700 "$D/runner"; "$D/runner" "$D/weights" {threads}; exit $?')
    return f"sh -c {shlex.quote(script)}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes, so that the other side tidies up, and wait a moment for it."""
    with suppress(OSError):
        if process.stdin:
            process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    end(process)


def _last(text: bytes) -> str:
    """The last line of what a program said."""
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""

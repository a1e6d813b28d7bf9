"""A machine to reach by ssh: this one, through a server of its own that lives as long as a test module."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
needs_sshd = pytest.mark.skipif(not SSHD or not shutil.which("ssh") or not shutil.which("ssh-keygen"),
                                reason="needs sshd, ssh and ssh-keygen (Debian packages openssh-server and openssh-client)")
FORCED = {"board": "", "noisy": "echo welcome; ", "full": "ulimit -f 4; ", "silent": "sleep 60; "}
"""Names of the machine for ssh: what each does before what it is asked to do."""
_TRIES, _PAUSE = 100, 0.05


class Server:
    """`command` is an ssh that knows the names in FORCED, and `stranger`, whose key nobody has; `work` is its TMPDIR."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.work.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        keys = [self._key(name) for name in ("host", *FORCED, "stranger")]
        known = zip(FORCED.values(), keys[1:], strict=False)
        allowed = [f'command="{forced}eval \\"$SSH_ORIGINAL_COMMAND\\"" {key}\n' for forced, key in known]
        (folder / "authorized_keys").write_text("".join(allowed))
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {keys[0]}\n")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
            f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\nMaxStartups 100\n"
            f"SetEnv TMPDIR={self.work}\n")
        names = (f"Host {name}\n IdentityFile {folder}/{name}\n" for name in (*FORCED, "stranger"))
        (folder / "config").write_text(
            "".join(names) + f"Host *\n HostName 127.0.0.1\n Port {self.port}\n User {getpass.getuser()}\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {folder}/known_hosts\n GlobalKnownHostsFile /dev/null\n")
        self.command = f"ssh -F {folder}/config"

    def _key(self, name: str) -> str:
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, stdin=subprocess.DEVNULL)
        return path.with_suffix(".pub").read_text().strip()

    def is_tidy(self) -> bool:
        """Whether the machine keeps nothing; it may need a moment."""
        for _ in range(_TRIES):
            if not list(self.work.iterdir()):
                return True
            time.sleep(_PAUSE)
        return False


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server that listens."""
    made = Server(folder)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)      # sshd gives up its rights there
    assert SSHD is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stdout=log, stderr=log)
        try:
            for _ in range(_TRIES):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", made.port)) == 0:
                        break
                if process.poll() is not None:
                    pytest.skip(f"sshd does not start here: {(folder / 'log').read_text().strip()}")
                time.sleep(_PAUSE)
            yield made
        finally:
            process.terminate()
            process.wait()

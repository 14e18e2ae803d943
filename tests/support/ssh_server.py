"""An SSH server in this process. `sleep` lasts until its connection ends; the other commands are a shell's."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.waiting import PATIENCE


class SshServer:
    """`home` is to be the client's home folder: it gets a key there that the server takes, and knows the server."""

    def __init__(self, home: Path) -> None:
        import asyncssh

        self._asyncssh: Any = asyncssh
        self.asleep = 0
        self.connections: list[Any] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._keys = home / ".ssh"
        self._keys.mkdir(mode=0o700)

    def __enter__(self) -> SshServer:
        self._thread.start()
        client, host = (self._asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        client.write_private_key(self._keys / "id_ed25519")
        client.write_public_key(self._keys / "authorized_keys")
        self._server = self._call(self._open(host))
        self.port = self._server.get_port()
        known = f"[127.0.0.1]:{self.port} {host.export_public_key().decode()}"
        (self._keys / "known_hosts").write_text(known)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.end_connections()
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def end_connections(self) -> None:
        """As a server does that goes down."""
        self._call(self._end_connections())

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _open(self, key: Any) -> Any:
        return await self._asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[key],
            authorized_client_keys=str(self._keys / "authorized_keys"),
            process_factory=self._serve,
            acceptor=self.connections.append,
        )

    async def _close(self) -> None:
        self._server.close()
        await self._server.wait_closed()
        await self._loop.shutdown_default_executor()

    async def _end_connections(self) -> None:
        ended, self.connections[:] = self.connections[:], []
        for connection in ended:
            connection.abort()
            await connection.wait_closed()

    async def _serve(self, process: Any) -> None:
        if process.command.startswith("sleep"):
            self.asleep += 1
            await process.wait_closed()
            self.asleep -= 1
        else:
            done = subprocess.run(process.command, shell=True, capture_output=True, text=True)
            process.stdout.write(done.stdout)
            process.stderr.write(done.stderr)
            process.exit(done.returncode)

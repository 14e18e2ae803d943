"""SSH: commands on another machine, over connections that are kept alive.

    python examples/remote_commands.py HOST [PORT]

HOST has to be known, and to take one of your keys, as for `ssh HOST`.

- `on_check` runs a command. It is called before a task is taken after a pause, and with
  `keepalive` every half minute while there is none, so that no firewall forgets the
  connection.
- `on_abort` closes the connection under a command whose time is over. The task returns
  at once, the server ends the command, and the worker connects again.
- A connection that is lost ends the output of a command without an error. Its exit
  status is -1 then, so `run` raises one.
"""

from __future__ import annotations

import sys
from functools import partial

try:
    from paramiko import SSHClient
except ImportError:
    print("paramiko is not installed: pip install paramiko", file=sys.stderr)
    sys.exit(2)

from tasker import Config, TaskManager


def connect(host: str, port: int) -> SSHClient:
    ssh = SSHClient()
    ssh.load_system_host_keys()
    ssh.connect(host, port)
    return ssh


def answers(ssh: SSHClient) -> bool:
    transport = ssh.get_transport()
    return bool(transport and transport.is_active() and ssh.exec_command("true", timeout=5))


def configure(host: str, port: int) -> Config[SSHClient]:
    return Config(
        on_create=partial(connect, host, port),
        on_destroy=SSHClient.close,
        worker_count=2,
        check_health=lambda error, ssh: answers(ssh),
        on_check=answers,
        keepalive=30,
        on_abort=SSHClient.close,
        run_timeout=2,
    )


def run(ssh: SSHClient, command: str) -> str:
    _, stdout, stderr = ssh.exec_command(command)
    text = stdout.read().decode()
    if status := stdout.channel.recv_exit_status():
        raise OSError(f"exit status {status}: {stderr.read().decode().strip()}")

    return text.strip()


def main(host: str, port: str = "22") -> None:
    with TaskManager(configure(host, int(port))) as manager:
        for command in ("echo hello", "sleep 1000", "false", "echo still here"):
            future = manager.submit(run, command)
            print(f"{command}: {future.exception() or future.result()!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])

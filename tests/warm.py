"""Programs that begin with their libraries imported: a whole study of the suite costs its work, not thirty imports of torch.

`warm.python()` stands in for `sys.executable`. It passes its arguments, environment, folder and streams to a server, which
has imported what medssl needs from other libraries, and nothing of medssl. The server forks, and the fork runs the module or
script as Python would. Jobs that a warm Snakemake starts are warm as well. Options of Python itself start it cold.

What is killed or signalled starts cold, by `sys.executable`: a warm program is killed when its client is gone, and knows no other
signal. `test_kill_9_at_any_moment_and_the_same_command_finishes_the_same` holds that both end in the same bytes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

IMPORTS = (
    *("snakemake.cli", "snakemake.api", "torch", "torch._dynamo", "lightning_fabric", "monai.losses", "monai.networks.nets"),
    *("sklearn.linear_model", "sklearn.decomposition", "scipy.stats", "scipy.ndimage", "pyarrow.parquet", "pyarrow.compute"),
    *("pydantic", "typer", "yaml", "psutil", "nibabel", "pydicom", "PIL.Image", "imagehash", "jaxtyping", "safetensors.torch"),
    *("tensorboard.summary.writer.event_file_writer", "jinja2", "matplotlib"),
)


def python() -> str:
    """The program to start instead of `sys.executable`; its server lives as long as this process."""
    import atexit
    import subprocess
    import tempfile
    from pathlib import Path

    if "program" not in _started:
        folder = Path(tempfile.mkdtemp(prefix="warm-"))
        program, place = folder / "python", folder / "socket"
        program.write_text(CHOICE.format(python=sys.executable, here=__file__, place=place))
        program.chmod(0o755)
        line = [sys.executable, __file__, "serve", str(place), str(program)]
        server = subprocess.Popen(line, stdout=subprocess.PIPE, cwd=folder, env={**os.environ, **ALONE})
        atexit.register(lambda: (server.kill(), server.wait()))
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        _started["program"] = str(program)
    return _started["program"]


_started: dict[str, str] = {}
CHOICE = """#!/bin/sh
case "$1" in
  -m | *.py) exec "{python}" -I -S "{here}" ask "{place}" "$@" ;;
  *) exec "{python}" "$@" ;;
esac
"""
ALONE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""What keeps the libraries of the server from starting threads, which its forks would not have."""


def ask(place: str, arguments: list[str]) -> int:
    """In the client: have the server run this, and wait for its exit code."""
    request = {"arguments": arguments, "folder": os.path.realpath(os.curdir), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        socket.send_fds(server, [b"!"], [0, 1, 2])
        server.sendall(json.dumps(request).encode() + b"\n")
        return int(server.makefile().readline() or 1)


def serve(place: str, program: str) -> None:
    """In the server: fork for each client, pass on how the fork ended, and kill it where its client is gone."""
    import gc
    import importlib
    import selectors
    import threading

    for name in IMPORTS:
        importlib.import_module(name)
    assert threading.active_count() == 1 == len(os.listdir("/proc/self/task")), "a thread would not be in the forks"
    gc.collect()
    gc.freeze()
    _end_with_parent()
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # as when a test stops all children of its process, as `stop_on_signals` does
    clients: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as selector:
        listening.bind(place)
        listening.listen(64)
        selector.register(listening, selectors.EVENT_READ)
        selector.register(reader, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listening:
                    client, _ = listening.accept()
                    _, streams, _, _ = socket.recv_fds(client, 1, 3)
                    asked = client.makefile().readline()
                    if not asked.endswith("\n"):  # a client that was killed before it had asked
                        client.close()
                        continue
                    request = json.loads(asked)
                    child = os.fork()
                    if child == 0:
                        signal.set_wakeup_fd(-1)
                        for number in (signal.SIGCHLD, signal.SIGTERM):
                            signal.signal(number, signal.SIG_DFL)
                        signal.signal(signal.SIGINT, signal.default_int_handler)
                        for open_one in (listening, client, *clients.values()):
                            open_one.close()
                        selector.close()
                        _become(request, streams, program)
                    for stream in streams:
                        os.close(stream)
                    clients[child] = client
                    selector.register(client, selectors.EVENT_READ, child)
                elif key.fileobj == reader:
                    os.read(reader, 4096)
                    for child in list(clients):
                        ended, status = os.waitpid(child, os.WNOHANG)
                        if ended:
                            client = clients.pop(child)
                            if client in selector.get_map():  # else it was gone before its program
                                selector.unregister(client)
                            code = os.waitstatus_to_exitcode(status)
                            _answer(client, code if code >= 0 else 128 - code)
                elif key.data in clients:  # a client that is gone
                    selector.unregister(key.fileobj)
                    _kill(key.data)


def _become(request: dict[str, object], streams: list[int], program: str) -> None:
    """In the fork: be the program that was asked for, as a new Python would be. It does not return."""
    import atexit
    import random
    import runpy
    import threading
    import traceback
    from pathlib import Path

    _end_with_parent()
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    environment, arguments = request["environment"], request["arguments"]
    assert isinstance(environment, dict) and isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["folder"]))
    random.seed()
    module = arguments[1] if arguments[0] == "-m" else ""
    beside = Path() if module else Path(arguments[0]).parent
    sys.path[0:1] = [str(beside.resolve()), *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    sys.argv = arguments[1:] if module else arguments
    if module != "medssl":
        sys.executable = program  # the jobs that it starts are warm
    code: object = 0
    try:
        if module:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]  # as at the end of Python, but for taking its modules to pieces, which takes a second
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _end_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _answer(client: socket.socket, code: int) -> None:
    try:
        client.sendall(b"%d\n" % code)
    except OSError:
        pass  # it is gone
    client.close()


def _kill(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        raise SystemExit(ask(sys.argv[2], sys.argv[3:]))
    serve(*sys.argv[2:])

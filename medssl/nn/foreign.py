"""The process that reads a foreign weight file: tensors only, no other process, no network, bounded memory and time.

Only this file opens a pickle, with torch's tensors-only reader, after everything else has been forbidden.
Run as `python -m medssl.nn.foreign IN OUT STRIP KEY` by `medssl convert`.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.",
    "ctypes.dlopen",
    "shutil.",
    "os.remove",
)
MEMORY_FACTOR = 6
"""Address space beyond that used at the start, as a multiple of the file's size (plus 1 GiB)."""


def main(source: str, target: str, strip: str, key: str) -> None:
    """Read, choose, rename, write."""
    import os
    import zipfile

    import torch
    from safetensors.torch import load_file, save_file

    size = os.path.getsize(source)  # noqa: PTH202
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as parts:
            size = max(size, sum(part.file_size for part in parts.infolist()))
            if size > 100 * os.path.getsize(source) + 2**20:  # noqa: PTH202
                raise SystemExit("its parts unpack to more than a hundred times the size of the file")
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_FACTOR * size + 2**30,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (600, 600))
    sys.addaudithook(_forbid)
    loaded = load_file(source) if source.endswith(".safetensors") else torch.load(source, map_location="cpu", weights_only=True)
    entry, tensors = _weights(loaded, key)
    twice = [name for name in tensors if strip and name.startswith(strip) and name.removeprefix(strip) in tensors]
    if twice:
        raise SystemExit(
            f"it holds {twice[0]!r} and {twice[0].removeprefix(strip)!r}, which --strip {strip} gives one name. Leave --strip "
            "out, or name an entry with --key"
        )
    renamed = {name.removeprefix(strip): tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(renamed, target)
    numbers, taken = sum(t.numel() for t in renamed.values()), f"entry {entry}" if entry else "the file itself"
    print(f"{len(renamed)} tensors, {numbers} numbers, of {taken}; first: {next(iter(renamed))}")


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"the file tried {event}")


def _weights(loaded: Any, key: str) -> tuple[str, dict[str, Any]]:
    """The intended dictionary of tensors and its entry: the named one, else the one with most tensors, looking two levels deep.

    Of several with as many tensors none is chosen; the same one under two keys counts once.
    """
    import torch

    if key:
        for part in key.split("/"):
            if not isinstance(loaded, dict) or part not in loaded:
                raise SystemExit(
                    f"it has no entry {part!r}; there are {sorted(loaded)[:20] if isinstance(loaded, dict) else loaded!r}"
                )
            loaded = loaded[part]
    candidates: dict[int, tuple[str, dict[str, Any]]] = {}
    waiting = [(key, loaded, 0)]
    while waiting:
        entry, value, depth = waiting.pop(0)
        if isinstance(value, dict) and id(value) not in candidates:
            named = {n: t for n, t in value.items() if isinstance(n, str) and isinstance(t, torch.Tensor)}
            candidates[id(value)] = entry, named
            waiting += [(f"{entry}/{n}".lstrip("/"), part, depth + 1) for n, part in value.items()] if depth < 2 else []
    most = max((len(named) for _, named in candidates.values()), default=0)
    if not most:
        raise SystemExit("it holds no named tensors")
    best = [(entry, named) for entry, named in candidates.values() if len(named) == most]
    if len(best) > 1:
        entries = ", ".join(entry or "the file itself" for entry, _ in best)
        raise SystemExit(f"it holds {len(best)} entries of {most} tensors each. Choose one with --key: {entries}")
    return best[0]


if __name__ == "__main__":
    main(*sys.argv[1:5])

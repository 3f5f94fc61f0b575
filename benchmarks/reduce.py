"""Reduction compared with its peers on the same slices in one run: hashes, search, entropy, mutual information, SSIM, scale.

Slices are the chest CT of ../shared/data/demo_sources at 512² (the bundled demo, enlarged, where that folder is absent). Codes
for the search are made from real dHash codes: volumes of 100 slices that drift between mixtures of real neighbours, so that
buckets are as uneven as real ones; the table says how uneven. The BK-tree is the published algorithm in Python, as imagededup
runs it (Burkhard & Keller 1973; imagededup's own package needs torchvision).
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import imagehash
import numpy as np
import skimage
from PIL import Image
from skimage.measure import shannon_entropy
from skimage.metrics import structural_similarity
from threadpoolctl import threadpool_limits

from medssl.core.files import write_json
from medssl.reduce import hamming
from medssl.reduce.descriptors import describe_slices
from medssl.reduce.hashes import Hasher
from medssl.reduce.information import bin_codes, entropy_bits, mutual_information_bits
from medssl.reduce.reducers.embedding import Embedding
from medssl.reduce.reducers.hash import Hash
from medssl.reduce.slices import Slices
from medssl.reduce.structure import moments, ssim
from medssl.reduce.traversals import greedy
from medssl.reduce.windows import Window

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
WINDOW = Window(-1000.0, 1000.0)
THREADS = 2
THREE = {"ahash": imagehash.average_hash, "dhash": imagehash.dhash, "phash": imagehash.phash}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most a minute; results are not kept")
    parser.add_argument("--scale-child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--embedding-child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scale_child:
        print(json.dumps(_greedy_everywhere(options.scale_child)))
        return
    if options.embedding_child:
        print(json.dumps(_greedy_embeddings(options.embedding_child)))
        return
    stored = real_slices()[: 12 if options.quick else 64]
    with threadpool_limits(1, "blas"):
        figures: dict[str, Any] = {
            "hashes": compare_hashes(stored),
            "describe": compare_describe(stored[: 6 if options.quick else 24]),
            "entropy": compare_entropy(stored),
            "mutual_information": compare_information(stored[: 6 if options.quick else 16]),
            "ssim": compare_ssim(stored[: 5 if options.quick else 12]),
        }
    figures["search"] = compare_search(options.quick)
    figures["scale"] = scale(options.quick)
    for part, values in figures.items():
        print(f"{part:20}", "  ".join(f"{k} {_short(v)}" for k, v in values.items()))
    result = {
        "figures": figures,
        "quick": options.quick,
        "slices": len(stored),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "imagehash": imagehash.__version__,
            "faiss": faiss.__version__,
            "scikit-image": skimage.__version__,
        },
        "processor": _processor(),
        "threads": THREADS,
        "date": datetime.now(UTC).date().isoformat(),
    }
    if not options.quick:
        write_json(ROOT / "benchmarks" / "results" / "reduce.json", result)
    print("RESULT " + json.dumps({k: v for k, v in figures.items()}))


# Per slice, per pair


def compare_hashes(stored: list[np.ndarray]) -> dict[str, float]:
    """Three hashes of a slice: the imagehash loop, and all at once on one thread and on two."""
    images = np.stack([WINDOW.grey(plane) for plane in stored])
    theirs, loop_s = timed(lambda: [[int(str(f(Image.fromarray(i))), 16) for f in THREE.values()] for i in images], 3)
    hasher = Hasher(*images.shape[1:], tuple(THREE), 8)
    hasher(images[:2])
    ours, one_s = timed(lambda: hasher(images), 3)
    with ThreadPoolExecutor(THREADS) as pool:
        chunks = np.array_split(images, max(len(images) // 8, THREADS))
        _, two_s = timed(lambda: list(pool.map(hasher, chunks)), 3)
    equal = all([int(ours[kind][n, 0]) for kind in THREE] == row for n, row in enumerate(theirs))
    num = len(images)
    return {
        "imagehash_per_s": num / loop_s,
        "one_thread_per_s": num / one_s,
        "two_threads_per_s": num / two_s,
        "ratio": loop_s / two_s,
        "goal": 8,
        "equal": equal,
    }


def compare_describe(stored: list[np.ndarray]) -> dict[str, float]:
    """All descriptors of a slice from stored values: the naive chain, and one pass on two threads."""

    def naive(plane: np.ndarray) -> list[float]:
        grey = np.floor(np.clip((plane + 1000.0) / 2000.0, 0, 1) * 255 + 0.5).astype(np.uint8)
        image = Image.fromarray(grey)
        hashes = [imagehash.average_hash, imagehash.dhash, imagehash.phash, imagehash.whash]
        return [*(int(str(f(image)), 16) for f in hashes), shannon_entropy(np.clip(plane, -1000, 1000))]

    theirs, loop_s = timed(lambda: [naive(plane) for plane in stored], 3)
    with ThreadPoolExecutor(THREADS) as pool:
        chunks = [stored[n : n + 4] for n in range(0, len(stored), 4)]

        def one_pass() -> list[dict[str, np.ndarray]]:
            return list(pool.map(lambda c: describe_slices(c, WINDOW, sizes=(8,), greys=("window",)), chunks))

        one_pass()
        ours, pass_s = timed(one_pass, 3)
    columns = {name: np.concatenate([part[name] for part in ours]) for name in ours[0]}
    equal = all(
        [int(columns[f"{kind}_8_0"][n]) for kind in ("ahash", "dhash", "phash", "whash")] == row[:4]
        and abs(columns["entropy"][n] - row[4]) < 1e-12
        for n, row in enumerate(theirs)
    )
    return {
        "naive_per_s": len(stored) / loop_s,
        "ours_per_s": len(stored) / pass_s,
        "ratio": loop_s / pass_s,
        "goal": 5,
        "equal": equal,
    }


def compare_entropy(stored: list[np.ndarray]) -> dict[str, float]:
    """Entropy of the windowed 16-bit values of a slice."""
    clipped = [np.clip(plane, -1000, 1000) for plane in stored]
    theirs, loop_s = timed(lambda: [shannon_entropy(plane) for plane in clipped], 3)

    ours, own_s = timed(lambda: [entropy_bits(WINDOW.counts(plane)) for plane in stored], 3)
    return {
        "skimage_per_s": len(stored) / loop_s,
        "ours_per_s": len(stored) / own_s,
        "ratio": loop_s / own_s,
        "goal": 15,
        "largest_difference": float(np.abs(np.array(theirs) - ours).max()),
    }


def compare_information(stored: list[np.ndarray]) -> dict[str, float]:
    """Mutual information of neighbouring slices with 64 bins, codes of a slice made once as in a pass over a volume."""
    units = [WINDOW.unit(plane) for plane in stored]

    def by_numpy(a: np.ndarray, b: np.ndarray) -> float:
        joint = np.histogram2d(a.ravel(), b.ravel(), bins=64, range=[[0, 1], [0, 1]])[0]
        share = joint / joint.sum()
        outer = share.sum(1, keepdims=True) * share.sum(0, keepdims=True)
        return float((share[share > 0] * np.log2(share[share > 0] / outer[share > 0])).sum())

    theirs, loop_s = timed(lambda: [by_numpy(a, b) for a, b in pairwise(units)], 3)
    codes = [bin_codes(unit.reshape(-1), 64) for unit in units]
    entropies = [entropy_bits(np.bincount(code, minlength=64)) for code in codes]
    narrow = [code.astype(np.uint16) for code in codes]
    scaled = [code * 64 for code in codes]
    pairs = list(range(len(units) - 1))
    ours, own_s = timed(
        lambda: [mutual_information_bits(scaled[k], narrow[k + 1], 64, (entropies[k], entropies[k + 1])) for k in pairs]
    )
    return {
        "histogram2d_per_s": len(pairs) / loop_s,
        "ours_per_s": len(pairs) / own_s,
        "ratio": loop_s / own_s,
        "goal": 8,
        "largest_difference": float(np.abs(np.array(theirs) - ours).max()),
    }


def compare_ssim(stored: list[np.ndarray]) -> dict[str, float]:
    """SSIM of all pairs of some slices with the Gaussian window; ours counts the moments of each slice once, as a pass does."""
    units = [WINDOW.unit(plane) for plane in stored]
    pairs = [(a, b) for a in range(len(units)) for b in range(a + 1, len(units))]
    some = pairs[:: max(len(pairs) // 10, 1)]
    theirs, loop_s = timed(
        lambda: [
            structural_similarity(
                units[a], units[b], data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            for a, b in some
        ]
    )

    def all_pairs() -> dict[tuple[int, int], float]:
        held = [moments(unit) for unit in units]
        return {(a, b): ssim(held[a], held[b]) for a, b in pairs}

    ours, own_s = timed(all_pairs, 3)
    counter = _Counted([float(n) for n in range(len(units))])
    greedy(counter, 2.0)
    return {
        "skimage_per_s": len(some) / loop_s,
        "ours_per_s": len(pairs) / own_s,
        "ratio": loop_s / len(some) / (own_s / len(pairs)),
        "goal": 5,
        "largest_difference": float(max(abs(t - ours[p]) for t, p in zip(theirs, some, strict=True))),
        "pairs_in_greedy": counter.computed,
        "pairs_in_all": len(pairs),
    }


class _Counted(Embedding):
    """Counts what a traversal asks for."""

    def __init__(self, places: list[float]) -> None:
        num = len(places)
        vectors = np.array(places, np.float32)[:, None]
        super().__init__(
            Slices(np.arange(num).astype(object), np.zeros(num, int), np.ones(num, bool), vectors=vectors), metric="euclidean"
        )
        self.computed = 0

    def distances(self, anchor: int, others: np.ndarray) -> np.ndarray:
        self.computed += len(others)
        return super().distances(anchor, others)


# Search


def compare_search(quick: bool) -> dict[str, Any]:
    """All pairs of codes within Hamming 6: BK-tree at 10⁴, faiss to 10⁵, ours to 10⁶."""
    real = real_codes()
    figures: dict[str, Any] = {"concentration_real": concentration(real)}
    for num in (2_000, 20_000) if quick else (10_000, 100_000, 1_000_000):
        codes = codes_like(real, num)
        found, own_s = timed(lambda codes=codes: sum(len(i) for i, _, _ in hamming.pairs_within(codes, 6)))
        entry: dict[str, Any] = {"seconds": own_s, "pairs": found, "concentration": concentration(codes)}
        if num <= 10_000:
            tree_pairs, tree_s = timed(lambda codes=codes: bk_tree_pairs([int(c) for c in codes], 6))
            entry |= {
                "bk_tree_s": tree_s,
                "ratio_bk_tree": tree_s / own_s,
                "goal_bk_tree": 100,
                "equal_bk_tree": tree_pairs == found,
            }
        if num <= 100_000:
            faiss.omp_set_num_threads(THREADS)
            index = faiss.IndexBinaryFlat(64)
            packed = codes.view(np.uint8).reshape(-1, 8)
            index.add(packed)
            limits, faiss_s = timed(lambda index=index, packed=packed: index.range_search(packed, 7)[0])
            pairs = (int(limits[-1]) - num) // 2
            entry |= {"faiss_s": faiss_s, "ratio_faiss": faiss_s / own_s, "goal_faiss": 3, "equal_faiss": pairs == found}
        figures[f"{num}"] = entry
    return figures


def bk_tree_pairs(codes: list[int], radius: int) -> int:
    """Pairs within the radius: every code put into a BK-tree, then each looked up, as imagededup does; counted once."""
    root: tuple[int, int, dict] = (codes[0], 1, {})
    nodes = [[codes[0], 1, {}]]
    root = nodes[0]  # type: ignore[assignment]
    for code in codes[1:]:
        node = root
        while True:
            apart = (node[0] ^ code).bit_count()
            if apart == 0:
                node[1] += 1  # type: ignore[index]
                break
            child = node[2].get(apart)
            if child is None:
                node[2][apart] = [code, 1, {}]
                break
            node = child
    total = 0
    for code in codes:
        waiting = [root]
        while waiting:
            value, times, children = waiting.pop()
            apart = (value ^ code).bit_count()
            if apart <= radius:
                total += times
            for edge in range(max(apart - radius, 1), apart + radius + 1):
                if edge in children:
                    waiting.append(children[edge])
    return (total - len(codes)) // 2


def codes_like(real: np.ndarray, num: int, depth: int = 100) -> np.ndarray:
    """Codes (num,) of made-up volumes: way points mix rows of a real code and a real neighbour of it; slices drift between."""
    draw = np.random.default_rng(0)
    bits = np.unpackbits(real.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1).astype(bool)
    apart = np.bitwise_count(real[:, None] ^ real[None])
    nearest = np.argsort(apart + np.eye(len(real)) * 99, axis=1)[:, :20]
    volumes, ways = -(-num // depth), 4
    first = draw.integers(0, len(real), (volumes, ways))
    second = nearest[first, draw.integers(0, 20, first.shape)]
    take = np.repeat(draw.random((volumes, ways, 8)) < 0.5, 8, axis=2)
    points = np.where(take, bits[first], bits[second])
    span = depth // (ways - 1) + 1
    when = draw.random((volumes, ways - 1, 64))
    slices = []
    for place in range(depth):
        leg, share = place // span, place % span / span
        slices.append(np.where(when[:, leg] < share, points[:, leg + 1], points[:, leg]))
    made = np.stack(slices, axis=1).reshape(-1, 64)[:num]
    return np.packbits(made, axis=1).view(">u8").astype(np.uint64)[:, 0]


def concentration(codes: np.ndarray) -> float:
    """Share of pairs that meet in a bucket of the first nine bits: 0.002 when codes are uniform."""
    counts = np.bincount((codes >> np.uint64(55)).astype(np.int64), minlength=512).astype(float)
    return float((counts**2).sum() / len(codes) ** 2)


# Scale


def scale(quick: bool) -> dict[str, Any]:
    """The traversal `global` over synthetic cohorts, each in a process of its own: seconds and peak memory."""
    figures: dict[str, Any] = {}
    for flag, sizes in (
        ("--scale-child", (20_000,) if quick else (10_000, 100_000, 1_000_000)),
        ("--embedding-child", (10_000,) if quick else (10_000, 100_000, 1_000_000)),
    ):
        for num in sizes:
            done = subprocess.run([sys.executable, __file__, flag, str(num)], check=True, capture_output=True, text=True)
            figures[f"{flag[2:].split('-')[0].replace('scale', 'hash')}_{num}"] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _greedy_everywhere(num: int) -> dict[str, float]:
    codes = codes_like(real_codes(), num)
    members = np.arange(num)
    slices = Slices(members, members, np.zeros(num, bool), {"dhash_8_0": codes})
    (twin, _), seconds = timed(lambda: Hash(slices).leaders(members, 6))
    return {"seconds": seconds, "kept": int((twin < 0).sum()), "peak_mb": _peak_mb()}


def _greedy_embeddings(num: int) -> dict[str, float]:
    """128 features, 100 slices to a volume, about ten kept of each."""
    draw = np.random.default_rng(0)
    vectors = np.empty((num, 128), np.float32)
    for start in range(0, num, 100):
        ways = draw.normal(size=(11, 128)).astype(np.float32)
        along = np.linspace(0, 9.999, min(100, num - start), dtype=np.float32)
        leg = along.astype(int)
        share = (along - leg)[:, None]
        vectors[start : start + 100] = ways[leg] * (1 - share) + ways[leg + 1] * share
    members = np.arange(num)
    volume = members // 100
    slices = Slices(members, volume, np.ones(num, bool), vectors=vectors)
    pairs = Embedding(slices)
    inside, inside_s = timed(lambda: sum(int((pairs.leaders(run, 0.3)[0] < 0).sum()) for run in slices.runs()))
    figures = {"greedy_s": inside_s, "greedy_kept": inside}
    if num <= 100_000:
        (twin, _), seconds = timed(lambda: pairs.leaders(members, 0.3))
        figures |= {"global_s": seconds, "global_kept": int((twin < 0).sum())}
    return figures | {"peak_mb": _peak_mb()}


# Data


def real_slices() -> list[np.ndarray]:
    """Stored planes [row, col] int16 of chest CT at 512²."""
    folder = SHARED / "demo_sources" / "pyradiomics"
    if folder.is_dir():
        arrays = [_read_nrrd(folder / name) for name in ("lung1_image.nrrd", "lung2_image.nrrd")]
        return [np.ascontiguousarray(array[:, :, k].T) for array in arrays for k in range(array.shape[2])]
    import pydicom

    slices = [pydicom.dcmread(path) for path in sorted((ROOT / "demo" / "ct").rglob("*.dcm"))]
    values = [(d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept)).astype(np.int16) for d in slices]
    return [
        np.asarray(Image.fromarray(v.astype(np.int32)).resize((512, 512), Image.Resampling.BICUBIC)).astype(np.int16)
        for v in values
    ]


def real_codes() -> np.ndarray:
    """DHash of real chest slices (n,)."""
    folder = SHARED / "ssl" / "luna350_256"
    images = [np.asarray(Image.open(path).convert("L")) for path in sorted(folder.rglob("*.png"))] if folder.is_dir() else []
    images += [WINDOW.grey(plane) for plane in real_slices()[::4]]
    return np.array([Hasher(*image.shape, ("dhash",), 8)(image[None])["dhash"][0, 0] for image in images])


def _read_nrrd(path: Path) -> np.ndarray:
    """A gzip or raw NRRD of short integers, (i, j, k)."""
    head, body = path.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in head.decode("latin-1").splitlines() if ": " in line)
    data = gzip.decompress(body) if fields["encoding"].startswith("gz") else body
    kinds = {
        "short": "i2",
        "signed short": "i2",
        "int16": "i2",
        "unsigned short": "u2",
        "int": "i4",
        "double": "f8",
        "float": "f4",
    }
    order = ">" if fields.get("endian") == "big" else "<"
    array = np.frombuffer(data, order + kinds[fields["type"]]).reshape([int(n) for n in fields["sizes"].split()], order="F")
    return array.astype(np.int16)


def timed(work: Callable[[], Any], times: int = 1) -> tuple[Any, float]:
    """The result, and the least seconds it took."""
    seconds = []
    for _ in range(times):
        start_s = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start_s)
    return result, min(seconds)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_short(v)}" for k, v in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

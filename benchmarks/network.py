"""How long a pair network takes on this machine, and how much memory: full-size MASt3R, weights at random.

    python benchmarks/network.py [--size 512x384] [--model NAME|small] [--threads N] [--repeats 1] [--json OUT]
        [--precisions fp32 bf16]

Each precision runs in a fresh process, so that its peak memory is its own. A symmetric pair is both pictures encoded
once, both orders decoded in one batch, and four heads. No trained weights are needed: the time does not depend on them.
A processor without bf16 instructions emulates them: there bf16 is slower than fp32, by far.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from raster_report import about

from dyn4d.geometry.network import PairNetwork
from dyn4d.geometry.network_config import PRESETS, PairNetworkConfig

MAST3R = "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric"
SMALL = PairNetworkConfig(
    head_type="catmlp+dpt", desc_dim=24, two_confs=True, enc_embed_dim=128, enc_depth=4, enc_num_heads=2,
    dec_embed_dim=128, dec_depth=4, dec_num_heads=2, dpt_layer_dims=(16, 24, 32, 48), dpt_feature_dim=32,
    dpt_head_dims=(16, 16),
)  # fmt: skip


def peak_memory() -> int | None:
    """Bytes this process has held at most; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def build(config: PairNetworkConfig) -> PairNetwork:
    """A network whose weights are small random numbers."""
    with torch.device("meta"):
        network = PairNetwork(config)
    network.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            parameter.uniform_(-1, 1).mul_((3 / parameter[0].numel()) ** 0.5)
        else:
            parameter.fill_(float("norm" in name and name.endswith("weight")))
    return network


def probe(model: str, width: int, height: int, precision: str, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds, peak memory and encoder calls of one precision, in this process."""
    torch.set_num_threads(threads)
    start = peak_memory()
    network = build(SMALL if model == "small" else PRESETS[model])
    generator = torch.Generator().manual_seed(0)
    image_a, image_b = (torch.rand(1, 3, height, width, generator=generator) for _ in range(2))
    encode, decode = [], []
    low = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    with torch.no_grad(), low:
        for _ in range(repeats):
            began = time.perf_counter()
            a, b = network.encode(image_a), network.encode(image_b)
            encoded = time.perf_counter()
            pairs = network.predict_symmetric(a, b)
            encode.append(encoded - began)
            decode.append(time.perf_counter() - encoded)
    assert len(pairs) == 2 and all(bool(torch.isfinite(pair.conf_a).all()) for pair in pairs)
    return {
        "precision": precision,
        "encode_seconds": statistics.median(encode),
        "decode_seconds": statistics.median(decode),
        "pair_seconds": statistics.median(e + d for e, d in zip(encode, decode)),
        "peak_bytes": peak_memory(),
        "bytes_before": start,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "encoder_calls": network.images_encoded // repeats,
    }


def in_fresh_process(args: argparse.Namespace, precision: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--probe", precision, "--model", args.model, "--size", args.size,
               "--threads", str(args.threads), "--repeats", str(args.repeats)]  # fmt: skip
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="512x384", help="width x height in pixels")
    parser.add_argument("--model", default=MAST3R, choices=[*PRESETS, "small"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    if args.probe:
        print(json.dumps(probe(args.model, width, height, args.probe, args.threads, args.repeats)))
        return
    facts = about(args.threads)
    print(f"{args.model}, {args.size}, {args.threads} threads")
    print("precision  seconds a symmetric pair  encode  decode and heads  peak GB  encoder calls", flush=True)
    rows = []
    for precision in args.precisions:
        rows.append(row := in_fresh_process(args, precision))
        peak = "?" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f}"
        print(
            f"{row['precision']:9s} {row['pair_seconds']:25.2f} {row['encode_seconds']:7.2f} "
            f"{row['decode_seconds']:17.2f} {peak:>8s} {row['encoder_calls']:14d}",
            flush=True,
        )
    if args.json:
        report = {"machine": facts, "model": args.model, "size": args.size, "rows": rows}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

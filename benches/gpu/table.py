"""Makes a short table of what benches/gpu/run.sh has written into a folder, whatever of it is there: python benches/gpu/table.py FOLDER

Standard library alone.
"""
import collections
import json
import pathlib
import re
import sys

folder = pathlib.Path(sys.argv[1])


def lines(name):
    path = folder / f"{name}.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            pass  # a program that was cut off, or what is no JSON (nvidia-smi)


def table(head, rows):
    if rows:
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for row in rows:
            print("| " + " | ".join(str(cell) for cell in row) + " |")
        print()


def number(value, form="{:.2f}"):
    return "-" if value is None else form.format(value)


def gib(value):
    return number(None if value is None else value / 2**30)


def steps():
    """A row for every step of ours, with the ratios to that of torch on the same work."""
    key = lambda s: tuple(s.get(k) for k in ["shape", "method", "quant_name", "checkpointing", "batch", "seq", "dtype"])
    theirs = {}
    for s in lines("torch"):
        s["quant_name"] = s["quant"]
        theirs[key(s)] = s
    rows = []
    for s in lines("step"):
        quant = s["quant"]
        s["quant_name"] = quant and quant["kind"] + ("+double" if quant.get("double") else "")
        on_card = s["device_bytes"] is not None
        memory = s["device_bytes"] if on_card else s["peak_rss_bytes"]
        t = theirs.get(key(s)) if s["packed"] == 1 else None
        torch_memory = t and (t.get("peak_device_bytes") or t["peak_rss_bytes"])
        what = " ".join(filter(None, [s["method"], s["quant_name"], s["optim"] if s["optim"] != "adamw" else None,
                                      "packed" if s["packed"] > 1 else None,
                                      f"checkpointing {s['checkpointing']}" if s["checkpointing"] != "off" else None]))
        rows.append([s["shape"], what, f"{s['batch']} x {s['seq']}", number(s["tokens_per_s"], "{:.0f}"),
                     number(s["gemm_share"] * 100, "{:.0f} %"), number(s["first_step_s"], "{:.1f}"), gib(memory),
                     number(s["planned_bytes"] / memory if memory else None),
                     number(t and t["tokens_per_s"], "{:.0f}"), number(t and s["tokens_per_s"] / t["tokens_per_s"]),
                     number(memory / torch_memory if memory and torch_memory else None)])
    table(["shape", "trains", "batch", "tokens/s", "of product rate", "first step, s", "peak GiB", "plan / peak", "torch tokens/s",
           "x torch", "x its memory"], rows)


def agreement():
    parts = collections.defaultdict(list)
    for case in lines("agree"):
        parts[case["part"]].append(case)
    rows = []
    for part, cases in parts.items():
        computed = [c for c in cases if "error" in c]
        worst = max(computed, key=lambda c: c["error"], default=None)
        off = [c["case"] for c in cases if not c["ok"]]
        rows.append([part, len(cases), number(worst and worst["error"], "{:.1e}"), worst["case"] if worst else "-",
                     ", ".join(off) or "none"])
    table(["compared", "cases", "largest error", "in", "off"], rows)


def kernels():
    """CubeCL's profile: the time of every launch, summed by kernel."""
    path = folder / "kernels.txt"
    if not path.exists():
        return
    units = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
    times = collections.Counter()
    counts = collections.Counter()
    for found in re.finditer(r"\|\s*([0-9.]+)(ns|µs|ms|s)\s*\|\s*([\w:]+)", path.read_text(errors="replace")):
        name = re.sub(r"_[0-9a-f]{8}$", "", found[3])
        times[name] += float(found[1]) * units[found[2]]
        counts[name] += 1
    total = sum(times.values()) or 1.0
    table(["kernel", "launches", "ms", "share"],
          [[f"`{name}`", counts[name], number(1e3 * t), number(100 * t / total, "{:.1f} %")] for name, t in times.most_common(25)])


def main():
    card = folder / "card.jsonl"
    print(f"# {folder.name}\n")
    if card.exists():
        print("```\n" + card.read_text().strip() + "\n```\n")
    for r in lines("rates"):
        rates = ", ".join(f"{name} {rate / 1e3:.2f} TFLOP/s" for name, rate in r["gemm_gflops"].items())
        print(f"Device {r['device']}: copy {r['copy_gb_per_s']:.0f} GB/s; products of {r['size']}: {rates}.\n")
    steps()
    agreement()
    table(["streams", "tokens/s", "first token, s", "shape"],
          [[d["streams"], number(d["tokens_per_s"], "{:.1f}"), number(d["first_token_s"]), d["shape"]] for d in lines("decode")])
    table(["run", "seconds", "loss before", "loss after"],
          [[t.get("method", "-"), number(t.get("seconds"), "{:.1f}"), number(t.get("before", {}).get("loss"), "{:.4f}"),
            number(t.get("after", {}).get("loss"), "{:.4f}")] for t in lines("train")])
    kernels()
    table(["part that did not end well", "how", "command"],
          [[p["part"], p.get("ended") or f"code {p['code']} after {p['seconds']} s", f"`{p['command']}`"]
           for p in lines("parts") if p.get("code") != 0])


main()

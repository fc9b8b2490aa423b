"""Trains a classifier with `ft train` and with torch + transformers + PEFT in equal steps: quality of both over seeds, processor time, memory.

    pip install -r benches/requirements.txt
    python benches/classify.py target/release/ft MODEL --train train.tsv --valid dev.tsv      # columns `sentence` and `label`
    python benches/classify.py target/release/ft MODEL --train trainset.csv --valid devset.csv --e2e

LoRA on every projection and a head (or, with --full, every weight) by configs/sst2-classify.toml, with the same rates, warmup, rows per step and number of
steps on both sides; starts of head and LoRA and the order of rows are each side's own, which is why there are seeds. --e2e takes the E2E data set
and asks whether a sentence says that the restaurant is good for families (rows that mention it). Processor seconds are those of the whole program
for ft, and of training and scoring alone for torch. Prints one JSON object.
"""
import argparse
import csv
import json
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

CONFIG = pathlib.Path(__file__).parent.parent / "configs/sst2-classify.toml"


def rows(path, e2e):
    """(text, label) pairs of a TSV with or without a header, or of E2E's CSV."""
    if not e2e:
        lines = [line.rsplit("\t", 1) for line in path.read_text().splitlines()]
        return [(text, int(label)) for text, label in lines if label in ("0", "1")]
    found = ((row["ref"], re.search(r"familyFriendly\[(yes|no)\]", row["mr"])) for row in csv.DictReader(path.open()))
    return [(ref, int(match[1] == "yes")) for ref, match in found if match]


def ours(a, train, valid, seed, folder):
    for name, records in (("train", train), ("valid", valid)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in records))
    out = folder / f"run-{seed}"
    settings = {"model.path": a.model, "data.train": folder / "train.jsonl", "data.valid": folder / "valid.jsonl", "train.batch_size": a.rows,
                "train.steps": a.steps, "train.seed": seed, "train.out": out, "optim.lr": a.lr, "train.eval_every": a.steps, "train.load_best": "false",
                "data.map": '{text="{text}",label="{label}"}', **({"peft.method": "full"} if a.full else {})}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([a.ft, "train", CONFIG, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE if a.quiet else None)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((out / "report.json").read_text())
    last = [line for line in lines if "eval_loss" in line][-1]
    peak = report.get("peak_memory_bytes") or max(line.get("memory_bytes", 0) for line in lines)
    return {"accuracy": last["eval_accuracy"], "loss": last["eval_loss"], "peak_bytes": peak,
            "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def theirs(a, train, valid, seed):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup
    torch.manual_seed(seed)
    torch.set_num_threads(a.threads)
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=2, dtype=torch.float32)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if not a.full:
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules="all-linear"))
    start = time.process_time()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=a.lr, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.06 * a.steps), a.steps)
    order = [i for _ in range(a.steps * a.rows // len(train) + 1) for i in torch.randperm(len(train)).tolist()]

    def inputs(part):
        return tokenizer([t for t, _ in part], truncation=True, max_length=128, padding=True, return_tensors="pt")

    model.train()
    for step in range(a.steps):
        part = [train[i] for i in order[step * a.rows:(step + 1) * a.rows]]
        model(**inputs(part), labels=torch.tensor([y for _, y in part])).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    right = total = 0.0
    with torch.no_grad():
        for at in range(0, len(valid), a.rows):
            part = valid[at:at + a.rows]
            logits, labels = model(**inputs(part)).logits, torch.tensor([y for _, y in part])
            right += (logits.argmax(-1) == labels).sum().item()
            total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
    return {"accuracy": right / len(valid), "loss": total / len(valid), "cpu_s": time.process_time() - start,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("ft")
    p.add_argument("model")
    p.add_argument("--train", type=pathlib.Path, required=True)
    p.add_argument("--valid", type=pathlib.Path, required=True)
    p.add_argument("--e2e", action="store_true")
    p.add_argument("--full", action="store_true")
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--rows", type=int, default=16)
    p.add_argument("--lr", type=float, default=5e-4)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--valid-rows", type=int, default=400)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--quiet", action="store_true", help="hide what ft says")
    p.add_argument("--torch-seed", type=int, help=argparse.SUPPRESS)  # one run of torch in a process of its own
    a = p.parse_args()
    train, valid = rows(a.train, a.e2e), rows(a.valid, a.e2e)[:a.valid_rows]
    if a.torch_seed is not None:
        print(json.dumps(theirs(a, train, valid, a.torch_seed)))
        return
    found = {"ft": [], "torch": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, a.seeds + 1):
            found["ft"].append(ours(a, train, valid, seed, pathlib.Path(folder)))
            said = subprocess.run([sys.executable, *sys.argv, "--torch-seed", str(seed)], check=True, stdout=subprocess.PIPE).stdout
            found["torch"].append(json.loads(said))
    means = {side: {key: statistics.fmean(run[key] for run in runs) for key in runs[0]} for side, runs in found.items()}
    ratio = {"speed": means["torch"]["cpu_s"] / means["ft"]["cpu_s"], "memory": means["ft"]["peak_bytes"] / means["torch"]["peak_bytes"]}
    print(json.dumps({"steps": a.steps, "rows": a.rows, "lr": a.lr, "full": a.full, "means": means, "ratio": ratio, "runs": found}))


if __name__ == "__main__":
    main()

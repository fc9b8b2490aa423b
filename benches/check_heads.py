"""Compares what a classifier that `ft train` wrote says with what transformers and PEFT get from the same folder.

    pip install -r benches/requirements.txt
    python benches/check_heads.py target/release/ft RUN --data DATA.jsonl      # records of {"text", "text_pair"?, "label"}

RUN is a run folder with `objective.kind = "classify"`: its `final/` holds an adapter with a head, which PEFT loads over the base, or a whole checkpoint, which
transformers loads. Fails where an output differs by more than 1e-4 of the largest one.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile
import tomllib

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def load(run):
    final = run / "final"
    if not (final / "adapter_config.json").exists():
        return AutoModelForSequenceClassification.from_pretrained(final, dtype=torch.float32), final
    base = tomllib.loads((run / "config.toml").read_text())["model"]["path"]
    labels = json.loads((final / "labels.json").read_text())
    labels["id2label"] = {int(i): name for i, name in labels["id2label"].items()}
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32, **labels)
    return PeftModel.from_pretrained(model, final), final


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("ft")
    args.add_argument("run", type=pathlib.Path)
    args.add_argument("--data", type=pathlib.Path, required=True)
    args = args.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "predictions.jsonl"
        subprocess.run([args.ft, "eval", args.run, "--data", args.data, "--format", "classification", "--out", out], check=True)
        ours = [json.loads(line) for line in out.read_text().splitlines()]
    model, final = load(args.run)
    tokenizer = AutoTokenizer.from_pretrained(final)
    worst = largest = 0.0
    for line, said in zip(args.data.read_text().splitlines(), ours, strict=True):
        record = json.loads(line)
        inputs = tokenizer(record["text"], record.get("text_pair"), truncation=True, max_length=1024, return_tensors="pt")
        with torch.no_grad():
            theirs = model.eval()(**inputs).logits[0].tolist()
        worst = max(worst, *(abs(a - b) for a, b in zip(theirs, said["outputs"].values(), strict=True)))
        largest = max(largest, *map(abs, theirs))
    print(f"{len(ours)} texts: outputs differ by {worst:.2e}, the largest is {largest:.2f}")
    assert worst <= 1e-4 * largest


if __name__ == "__main__":
    main()

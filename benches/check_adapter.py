"""Loads an adapter with PEFT, or a plain checkpoint with transformers, and compares its logits with those that `ft` wrote.

    pip install -r benches/requirements.txt
    python benches/check_adapter.py --model BASE --adapter RUN/final --logits ft.safetensors     # strict: every tensor used, every target filled
    python benches/check_adapter.py --model MERGED --logits ft.safetensors                       # merged or fully fine-tuned
    python benches/check_adapter.py --model MOE --adapter RUN/final --logits ft.safetensors --converted      # experts one by one, which PEFT stacks
    python benches/check_adapter.py --model BASE --adapter DIR --ids 1,2,3 --write want.safetensors   # the other way: for ft to compare with

The logits file is safetensors with `input_ids` [rows, width] (any integer type), `logits` [rows, width, vocab] and optionally
`lengths` [rows] (right padding beyond is not compared), or JSON: {"ids": [...], "logits": [[...], ...]} or a list of such objects, one per row.
Prints {"max_difference", "mean_abs_logit", "positions", "argmax_agreement", "missing", "unexpected"}; the exit code is 1 when the difference is above
--tolerance or a tensor is missing, unexpected or misshapen.
"""
import argparse
import dataclasses
import json
import pathlib
import sys

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--adapter", type=pathlib.Path)
    p.add_argument("--logits", type=pathlib.Path)
    p.add_argument("--ids", help="comma-separated token ids, instead of a file")
    p.add_argument("--write", type=pathlib.Path, help="write the logits of --ids here")
    p.add_argument("--converted", action="store_true", help="PEFT has the tensors in another form: compare the logits alone")
    p.add_argument("--tolerance", type=float, default=1e-4)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    if bool(a.logits) == bool(a.ids) or bool(a.ids) != bool(a.write):
        p.error("give either --logits FILE or --ids IDS --write FILE")
    return a


def load_base(path):
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    missing = list(info["missing_keys"]) + [f"misshapen: {k}" for k in info["mismatched_keys"]]
    return model, missing, list(info["unexpected_keys"])


def load_adapter(base, folder):
    """The adapted model, and how the file's tensors differ from what PEFT itself would save for this config."""
    config = PeftConfig.from_pretrained(folder)
    model = PeftModel.from_pretrained(base, folder, config=config)
    have = load_file(folder / "adapter_model.safetensors")
    need = get_peft_model_state_dict(model, save_embedding_layers=False)
    allowed = get_peft_model_state_dict(model, save_embedding_layers=True)
    missing = sorted(need.keys() - have.keys())
    missing += [f"misshapen: {k} {list(have[k].shape)}, PEFT has {list(need[k].shape)}" for k in need if k in have and have[k].shape != need[k].shape]
    missing += [f"not loaded: {k}" for k in need if k in have and have[k].shape == need[k].shape and not torch.equal(have[k].to(need[k].dtype), need[k])]
    keys = json.loads((folder / "adapter_config.json").read_text()).keys()
    unknown = [f"adapter_config.json: {k}" for k in keys - {f.name for f in dataclasses.fields(config)}]
    return model, missing, sorted(have.keys() - allowed.keys()) + unknown


def rows_of(a):
    """[(ids, logits or None)], one per row, without padding."""
    if a.ids:
        return [([int(x) for x in a.ids.split(",")], None)]
    if a.logits.suffix == ".json":
        value = json.loads(a.logits.read_text())
        return [(r["ids"], torch.tensor(r["logits"])) for r in (value if isinstance(value, list) else [value])]
    t = load_file(a.logits)
    lengths = t["lengths"].tolist() if "lengths" in t else [t["input_ids"].shape[1]] * len(t["input_ids"])
    return [(ids[:n].tolist(), logits[:n]) for ids, logits, n in zip(t["input_ids"], t["logits"], lengths, strict=True)]


@torch.no_grad()
def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    model, missing, unexpected = load_base(a.model)
    if a.adapter:
        if a.converted:
            model = PeftModel.from_pretrained(model, a.adapter)
        else:
            model, lacking, extra = load_adapter(model, a.adapter)
            missing, unexpected = missing + lacking, unexpected + extra
    model.eval()
    worst, agree, positions, size = 0.0, 0, 0, 0.0
    for ids, want in rows_of(a):
        got = model(input_ids=torch.tensor([ids])).logits[0].float()
        if want is None:
            save_file({"input_ids": torch.tensor([ids]), "logits": got[None].contiguous()}, a.write)
            continue
        if want.shape != got.shape:
            raise SystemExit(f"logits have shape {list(want.shape)}, the model gives {list(got.shape)}")
        difference = (got - want.float()).abs().max().item()
        worst = max(worst, difference) if difference == difference else float("inf")
        agree += (got.argmax(-1) == want.argmax(-1)).sum().item()
        positions += len(ids)
        size += got.abs().mean().item() * len(ids)
    result = {"missing": missing, "unexpected": unexpected}
    if positions:
        result |= {"max_difference": worst, "mean_abs_logit": size / positions, "positions": positions, "argmax_agreement": agree / positions}
    print(json.dumps(result))
    sys.exit(1 if missing or unexpected or worst > a.tolerance else 0)


if __name__ == "__main__":
    main()

"""Loads a folder that `ft` wrote with AdapterHub's `adapters` library and compares its logits with those that `ft` wrote.

    pip install adapters==1.3.0          # wants transformers 4: an environment of its own
    python benches/check_adapterhub.py --model BASE --adapter RUN/final --logits ft.safetensors

BASE is a Llama, Mistral or GPT-2 checkpoint; the logits file is what the `logits` program of this folder writes. Prints {"max_difference",
"mean_abs_logit", "positions", "missing", "unexpected"}; the exit code is 1 when the difference is above --tolerance or a tensor is missing or unused.
"""
import argparse
import json
import pathlib
import sys

import adapters
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--adapter", type=pathlib.Path, required=True)
    p.add_argument("--logits", type=pathlib.Path, required=True)
    p.add_argument("--tolerance", type=float, default=1e-4)
    return p.parse_args()


@torch.no_grad()
def main():
    a = arguments()
    model = AutoModelForCausalLM.from_pretrained(a.model, torch_dtype=torch.float32)
    adapters.init(model)
    name = model.load_adapter(str(a.adapter), use_safetensors=True, with_head=False, set_active=True)
    model.eval()
    have = load_file(a.adapter / "adapter.safetensors")
    need = {key: value for key, value in model.state_dict().items() if name in key.split(".")}
    missing = sorted(need.keys() - have.keys())
    unexpected = sorted(have.keys() - need.keys())
    unexpected += [f"not loaded: {key}" for key in have.keys() & need.keys() if not torch.equal(have[key], need[key])]
    file = load_file(a.logits)
    worst, positions, size = 0.0, 0, 0.0
    for ids, want, length in zip(file["input_ids"], file["logits"], file["lengths"].tolist(), strict=True):
        got = model(input_ids=ids[None, :length].long()).logits[0].float()
        worst = max(worst, (got - want[:length]).abs().max().item())
        positions += length
        size += got.abs().mean().item() * length
    print(json.dumps({"max_difference": worst, "mean_abs_logit": size / positions, "positions": positions, "missing": missing,
                      "unexpected": unexpected}))
    sys.exit(1 if missing or unexpected or worst > a.tolerance else 0)


if __name__ == "__main__":
    main()

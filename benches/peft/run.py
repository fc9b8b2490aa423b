"""The training run that `ft train` made, made again with torch + PEFT from the same start, loss by loss.

    pip install -r benches/requirements.txt
    python benches/peft/run.py --model BASE --adapter INITIAL --batches batches.jsonl --out OUT --compare RUN/metrics.jsonl

INITIAL is an adapter folder in PEFT layout; without --adapter every parameter of BASE trains. The batch file holds one JSON object per
optimizer step, with what the step saw and the learning rate it used:

    {"step": 1, "lr": 0.0002, "batches": [[{"ids": [1, 5, 9], "learn": [false, true, true]}, ...], ...]}

`batches` lists the micro-batches of the step (one, without accumulation), each a list of rows; rows may differ in length. `learn[i]`
says that ids[i] is a target (predicted at i - 1); learn[0] is false. The loss of a step is the summed NLL of all its targets divided by their
number, over all micro-batches. Rows are padded on the right by length. AdamW in two decay groups as transformers' Trainer makes them
(no decay on biases and norms), gradients clipped to a global norm. Modules run in evaluation mode: dropout must be 0 in the run compared with.

--quant nf4, fp4 or int8 (and --double) holds the base as bitsandbytes does, where that is installed.

Writes OUT/metrics.jsonl ({"step", "loss", "grad_norm", "lr", "tokens", "seconds"}; loss and norm of the step's gradient before clipping and
updating) and OUT/adapter (or OUT/model), and prints one JSON object: tokens fed without padding, seconds, the largest resident set. With --compare it also prints the largest differences from that file, with
--compare-adapter those of the final tensors from another folder.
"""
import argparse
import json
import pathlib
import resource
import shutil
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.trainer_pt_utils import get_parameter_names

warnings.filterwarnings("ignore", category=FutureWarning)
NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]  # transformers' Trainer


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--adapter")
    p.add_argument("--batches", required=True, type=pathlib.Path)
    p.add_argument("--out", required=True, type=pathlib.Path)
    p.add_argument("--lr", type=float, nargs="+", help="one rate for all steps or one per step, instead of the file's")
    p.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.999))
    p.add_argument("--eps", type=float, default=1e-8)
    p.add_argument("--weight-decay", type=float, default=0.0)
    p.add_argument("--clip", type=float, default=1.0, help="0: no clipping")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--quant", choices=["nf4", "fp4", "int8"])
    p.add_argument("--double", action="store_true")
    p.add_argument("--steps", type=int, help="stop after so many")
    p.add_argument("--compare", type=pathlib.Path, help="a metrics.jsonl with step, loss and grad_norm")
    p.add_argument("--compare-adapter", type=pathlib.Path, help="a folder with the final adapter or checkpoint")
    return p.parse_args()


def storage(a):
    if not a.quant:
        return {}
    from transformers import BitsAndBytesConfig
    if a.quant == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=a.quant, bnb_4bit_use_double_quant=a.double,
                                                      bnb_4bit_compute_dtype=torch.float32)}


def load(a):
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, **storage(a))
    if a.adapter:
        config = PeftConfig.from_pretrained(a.adapter)
        if config.is_prompt_learning:  # PEFT loads prompts for inference only
            model = get_peft_model(model, config)
            set_peft_model_state_dict(model, load_file(pathlib.Path(a.adapter) / "adapter_model.safetensors"))
        else:
            model = PeftModel.from_pretrained(model, a.adapter, is_trainable=True)
    return model.eval()


def make_optimizer(a, model):
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], NO_DECAY))
    named = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": [p for k, p in named if k in decayed], "weight_decay": a.weight_decay},
              {"params": [p for k, p in named if k not in decayed], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=tuple(a.betas), eps=a.eps), [p for _, p in named]


def pad(rows):
    """ids, attention mask and targets (-100 where nothing is learned), all [rows, width]."""
    width = max(len(r["ids"]) for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask, targets = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        n = len(row["ids"])
        assert n == len(row["learn"]) and not row["learn"][0], "learn must be as long as ids and start with false"
        ids[i, :n] = torch.tensor(row["ids"])
        mask[i, :n] = 1
        targets[i, :n] = torch.where(torch.tensor(row["learn"]), ids[i, :n], -100)
    return ids, mask, targets


def backward(model, rows, tokens):
    """Adds the micro-batch's share of the gradient; its summed NLL."""
    ids, mask, targets = pad(rows)
    # A prompt's virtual tokens stand before the text.
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -ids.shape[1]:-1]
    total = F.cross_entropy(logits.flatten(0, 1).float(), targets[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    (total / tokens).backward()
    return total.item()


def rate(a, step, index):
    if not a.lr:
        return step["lr"]
    return a.lr[0] if len(a.lr) == 1 else a.lr[index]


def run(a, model):
    optimizer, parameters = make_optimizer(a, model)
    for index, line in enumerate(a.batches.open()):
        if a.steps is not None and index >= a.steps:
            break
        step, start = json.loads(line), time.perf_counter()
        tokens = sum(sum(row["learn"]) for rows in step["batches"] for row in rows)
        lr = rate(a, step, index)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        loss = sum(backward(model, rows, tokens) for rows in step["batches"]) / tokens
        norm = torch.nn.utils.clip_grad_norm_(parameters, a.clip if a.clip > 0 else float("inf")).item()
        optimizer.step()
        fed = sum(len(row["ids"]) for rows in step["batches"] for row in rows)
        yield {"step": step.get("step", index + 1), "loss": loss, "grad_norm": norm, "lr": lr, "tokens": tokens, "fed": fed,
               "seconds": time.perf_counter() - start}


def compare(mine, path):
    theirs = {r["step"]: r for r in map(json.loads, path.open()) if "loss" in r}
    common = [(r, theirs[r["step"]]) for r in mine if r["step"] in theirs]
    if not common:
        raise SystemExit(f"{path}: no step in common")
    result = {"steps": len(common)}
    for key in ("loss", "grad_norm"):
        gaps = [(abs(x[key] - y[key]), x["step"]) for x, y in common if y.get(key) is not None]
        if gaps:
            result[f"max_{key}_difference"], result[f"max_{key}_difference_step"] = max(gaps)
            result[f"last_{key}_difference"] = gaps[-1][0]
    return result


def tensors(folder):
    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def compare_tensors(mine, other):
    x, y = tensors(mine), tensors(other)
    if x.keys() != y.keys():
        raise SystemExit(f"tensors differ: only here {sorted(x.keys() - y.keys())}, only there {sorted(y.keys() - x.keys())}")
    gaps = {k: (x[k].double() - y[k].double()).abs().max().item() for k in x}
    worst = max(gaps, key=gaps.get)
    return {"max_tensor_difference": gaps[worst], "tensor": worst}


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    a.out.mkdir(parents=True, exist_ok=True)
    model, lines = load(a), []
    with (a.out / "metrics.jsonl").open("w") as log:
        for line in run(a, model):
            lines.append(line)
            print(json.dumps(line), file=log, flush=True)
            print(f"step {line['step']}: loss {line['loss']:.6f}, gradient norm {line['grad_norm']:.6f}, {line['seconds']:.2f} s", file=sys.stderr)
    final = a.out / ("adapter" if a.adapter else "model")
    model.save_pretrained(final)
    if not a.adapter:
        for file in pathlib.Path(a.model).glob("*token*"):
            shutil.copy(file, final)
    seconds = sum(line["seconds"] for line in lines)
    result = {"steps_run": len(lines), "targets_per_s": sum(line["tokens"] for line in lines) / seconds,
              "tokens": sum(line["fed"] for line in lines), "seconds": seconds,
              "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if a.compare:
        result |= compare(lines, a.compare)
    if a.compare_adapter:
        result |= compare_tensors(final, a.compare_adapter)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

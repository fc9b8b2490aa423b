"""Does the work of `ft eval` and `ft generate` again with transformers (and PEFT), and compares with what they printed.

    pip install -r benches/requirements.txt
    ft eval MODEL --data rows.csv --map "prompt=Facts: {mr}" --map "completion={ref}" --json > eval.json
    python benches/check_cli.py eval --model MODEL --data rows.csv --prompt "Facts: {mr}" --completion "{ref}" --said eval.json

    ft generate MODEL --prompts prompts.txt --temperature 0 --max-new-tokens 40 --json > generate.json
    python benches/check_cli.py generate --model MODEL --prompts prompts.txt --max-new-tokens 40 --said generate.json

Both take --adapter DIR, and `generate` takes --chat. Nothing of `ft` is used: the tokenizer, the template, the model and the search are
transformers' own. Prompt and completion are tokenized separately, special tokens once at the start, EOS at the end; the loss covers
the completion and EOS. Prints one JSON object; the exit code is 1 when losses differ by more than --tolerance or any token differs.
"""
import argparse
import csv
import json
import pathlib
import sys
import warnings

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

warnings.filterwarnings("ignore", category=FutureWarning)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["eval", "generate"])
    p.add_argument("--model", required=True)
    p.add_argument("--adapter")
    p.add_argument("--said", required=True, type=pathlib.Path, help="what ft printed with --json")
    p.add_argument("--data", type=pathlib.Path, help="a CSV file")
    p.add_argument("--prompt", help="text with {column} placeholders")
    p.add_argument("--completion", help="text with {column} placeholders")
    p.add_argument("--prompts", type=pathlib.Path, help="a prompt per line")
    p.add_argument("--chat", action="store_true")
    p.add_argument("--max-new-tokens", type=int, default=40)
    p.add_argument("--tolerance", type=float, default=1e-4)
    p.add_argument("--threads", type=int, default=2)
    return p.parse_args()


def load(a):
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    if a.adapter:
        model = PeftModel.from_pretrained(model, a.adapter)
    return model.eval(), AutoTokenizer.from_pretrained(a.model)


def nll(model, tokenizer, prompt, completion):
    """Summed NLL of the completion and EOS after the prompt, and how many tokens that is."""
    head = tokenizer(prompt)["input_ids"]
    tail = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    logits = model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1:-1]
    return F.cross_entropy(logits.double(), torch.tensor(tail), reduction="sum").item(), len(tail)


def check_eval(a, model, tokenizer, said):
    rows = list(csv.DictReader(a.data.open(encoding="utf-8")))
    parts = [nll(model, tokenizer, a.prompt.format(**row), a.completion.format(**row)) for row in rows]
    tokens = sum(n for _, n in parts)
    loss = sum(s for s, _ in parts) / tokens
    result = {"loss": loss, "ft_loss": said["loss"], "difference": abs(loss - said["loss"]), "tokens": tokens, "ft_tokens": said["tokens"], "samples": len(rows)}
    return result, result["difference"] <= a.tolerance and tokens == said["tokens"]


def encode(a, tokenizer, prompt):
    if not a.chat:
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True)["input_ids"]


def check_generate(a, model, tokenizer, said):
    answers = said.get("generations", [said])
    prompts = [line for line in a.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(answers) == len(prompts), f"{len(answers)} answers to {len(prompts)} prompts"
    differ = []
    for prompt, answer in zip(prompts, answers):
        ids = torch.tensor([encode(a, tokenizer, prompt)])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=a.max_new_tokens,
                             eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id)
        want = out[0, ids.shape[1]:].tolist()
        text = tokenizer.decode(want, skip_special_tokens=True)
        if want != answer["tokens"] or text.strip() != answer["text"].strip():
            differ.append({"prompt": prompt, "want": want, "ft": answer["tokens"], "text": text, "ft_text": answer["text"]})
    tokens = sum(len(answer["tokens"]) for answer in answers)
    return {"prompts": len(prompts), "tokens": tokens, "different": len(differ), "differences": differ}, not differ


@torch.no_grad()
def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    check = {"eval": check_eval, "generate": check_generate}[a.what]
    result, good = check(a, *load(a), json.loads(a.said.read_text()))
    print(json.dumps(result, ensure_ascii=False))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

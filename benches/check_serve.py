"""Clients of OpenAI's API against `ft serve`: do they work, do they get what transformers computes, how many tokens a second.

    pip install -r benches/requirements.txt openai langchain-openai lm-eval
    python benches/check_serve.py clients --ft FT --model MODEL
    python benches/check_serve.py speed   --ft FT --model MODEL

`clients` starts a server and goes through: the official `openai` client (plain, streaming, asynchronous, errors), LangChain's ChatOpenAI,
`curl`, and lm-evaluation-harness' `local-completions` on a task made here (no network), beside the harness' own `hf` model; greedy answers
are compared with transformers token for token, vectors of the model and of a random BERT with transformers' hidden states. `speed` times 1
stream, 32 clients with 8 adapters and 32 clients with 4 adapters beside 32 with none, and transformers + PEFT on the same prompts and
adapters (`adapter_names` in one padded batch), in turns; CPU seconds are those of the server's process and of this one. Adapters are
random LoRA matrices of rank 8 on all linear layers. MODEL is a folder with a tokenizer that has a chat template. Prints one JSON object.
"""
import argparse
import asyncio
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import typing
import urllib.request

KEY = "check-serve"
SENTENCES = [
    "The capital of France is", "Once upon a time there was a", "Water boils at a temperature of", "def fibonacci(n):",
    "The quick brown fox", "In the year 1969, humans", "My favourite recipe for soup is", "The best way to learn is",
]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["clients", "speed"])
    p.add_argument("--ft", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--tokens", type=int, default=16, help="tokens of an answer in `speed`")
    p.add_argument("--rounds", type=int, default=2, help="turns of `speed`")
    p.add_argument("--dtype", default="auto")
    p.add_argument("--threads", type=int, default=2)
    return p.parse_args()


class Held(dict):
    """What held, told as soon as it is known."""
    def __setitem__(self, key, value):
        print(f"{time.strftime('%H:%M:%S')} {key}: {value}", file=sys.stderr, flush=True)
        super().__setitem__(key, value)


class Server:
    def __init__(self, a, adapters, model=None):
        named = [x for name, path in adapters.items() for x in ("--adapter", f"{name}={path}")]
        command = [a.ft, "serve", model or a.model, "--port", "0", "--api-key-env", "CHECK_KEY", "--dtype", a.dtype, "--device", "cpu", *named]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "CHECK_KEY": KEY})
        for line in self.process.stderr:
            if found := re.match(r"listening on (\S+)", line):
                self.url = found[1]
                return
        sys.exit("the server did not start")

    def post(self, path, body):
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def cpu(self):
        ticks = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return {k: int(re.search(rf"{k}:\s+(\d+)", status)[1]) // 1024 for k in ("VmHWM", "VmRSS")}

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)


def make_adapters(model, folder, count):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    paths = {}
    for i in range(count):
        torch.manual_seed(i)
        config = LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config)
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.data.mul_(0.3)
        paths[f"a{i}"] = str(folder / f"a{i}")
        adapted.save_pretrained(paths[f"a{i}"])
    return paths


def reference(model, adapters, prompts, names, tokens, threads):
    """Greedy ids of transformers, one prompt at a time, in f32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    out = {}
    for name in [None, *adapters]:
        if name is not None:
            plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        used = plain if name is None else PeftModel.from_pretrained(plain, adapters[name]).eval()
        for prompt in [p for p, n in zip(prompts, names) if n == name]:
            ids = tokenizer(prompt, return_tensors="pt")
            made = used.generate(**ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
            out[prompt, name] = made[0, ids["input_ids"].shape[1]:].tolist()
    return out, tokenizer


def openai_client(server, model, adapter, held):
    import openai
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
    listed = [m.id for m in client.models.list()]
    held["openai: models"] = listed[0] == model and adapter in listed
    messages = [{"role": "user", "content": "Name a colour."}]
    ask = dict(model=adapter, messages=messages, max_tokens=16, temperature=0)
    whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    stream = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    held["openai: chat streamed = whole"] = text == whole.choices[0].message.content
    held["openai: usage"] = stream[-1].usage == whole.usage and whole.usage.completion_tokens == len(whole.choices[0].logprobs.content)
    several = client.completions.create(model=model, prompt=SENTENCES[:3], n=2, max_tokens=8, temperature=1, seed=3, logprobs=2)
    again = client.completions.create(model=model, prompt=SENTENCES[:3], n=2, max_tokens=8, temperature=1, seed=3, logprobs=2)
    held["openai: n, seed, logprobs"] = len(several.choices) == 6 and [c.text for c in several.choices] == [c.text for c in again.choices]
    stopped = client.completions.create(model=model, prompt="1, 2, 3, 4,", max_tokens=20, temperature=0, stop=[" 7"])
    held["openai: stop"] = stopped.choices[0].finish_reason == "stop" and " 7" not in stopped.choices[0].text

    def raises(kind, **wrong):
        try:
            client.chat.completions.create(**{**ask, **wrong})
            return False
        except kind:
            return True
    held["openai: errors"] = (raises(openai.NotFoundError, model="nobody") and raises(openai.BadRequestError, temperature=9e9, top_p=7)
                              and raises(openai.BadRequestError, response_format={"type": "xml"}))
    structured(client, adapter, held)
    try:
        openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0).models.list()
        held["openai: wrong key"] = False
    except openai.AuthenticationError:
        held["openai: wrong key"] = True

    async def many():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=KEY) as client:
            jobs = [client.completions.create(model=model, prompt=s, max_tokens=12, temperature=0) for s in SENTENCES * 4]
            return [answer.choices[0].text for answer in await asyncio.gather(*jobs)]
    texts = asyncio.run(many())
    held["openai: 32 asynchronous requests agree"] = texts == texts[:len(SENTENCES)] * 4


def structured(client, model, held):
    import pydantic

    # Closed, so that a model which goes on and on comes to an end.
    class Person(pydantic.BaseModel, extra="forbid"):
        name: typing.Annotated[str, pydantic.Field(max_length=20)]
        age: typing.Annotated[int, pydantic.Field(ge=0, le=120)]
        tags: typing.Annotated[list[typing.Literal["new", "old"]], pydantic.Field(max_length=2)]

    ask = dict(model=model, messages=[{"role": "user", "content": "Who is Ann?"}], max_tokens=300, temperature=1, seed=1)
    parsed = client.chat.completions.parse(**ask, response_format=Person, n=4)
    held["openai: response_format = a pydantic model"] = all(isinstance(c.message.parsed, Person) for c in parsed.choices)
    made = client.chat.completions.create(**ask, response_format={"type": "json_object"}, logit_bias={}).choices[0]
    held["openai: json_object"] = made.finish_reason == "length" or isinstance(json.loads(made.message.content), dict)
    tools = [openai_tool(Person)]
    call = client.chat.completions.create(**ask, tools=tools, tool_choice="required").choices[0]
    function = call.message.tool_calls[0].function
    held["openai: tool_choice = required"] = call.finish_reason == "tool_calls" and bool(Person.model_validate_json(function.arguments))
    pieces = [c.choices[0].delta.tool_calls for c in client.chat.completions.create(**ask, tools=tools, tool_choice="required", stream=True) if c.choices]
    streamed = [piece[0].function for piece in pieces if piece]
    held["openai: a call, streamed"] = [(f.name, f.arguments) for f in streamed] == [(function.name, function.arguments)]


def openai_tool(model):
    return {"type": "function", "function": {"name": "save", "parameters": model.model_json_schema()}}


def langchain(server, adapter, held):
    from langchain_openai import ChatOpenAI
    chat = ChatOpenAI(model=adapter, base_url=server.url + "/v1", api_key=KEY, temperature=0, max_tokens=12)
    whole = chat.invoke("Name a colour.").content
    held["langchain: invoke, stream"] = whole == "".join(piece.content for piece in chat.stream("Name a colour."))


def hidden_means(model, texts, adapter=None):
    """The mean of the last hidden states over the tokens of each text, by transformers in f32."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoder = AutoConfig.from_pretrained(model).model_type == "bert"
    loaded = (AutoModel if encoder else AutoModelForCausalLM).from_pretrained(model, dtype=torch.float32).eval()
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, adapter).eval()
    vectors, ids = [], []
    for text in texts:
        encoded = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            vectors.append(loaded(**encoded, output_hidden_states=True).hidden_states[-1][0].mean(0).tolist())
        ids.append(encoded["input_ids"][0].tolist())
    return vectors, ids


def make_bert(folder):
    """A random BERT with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({w for s in SENTENCES for w in s.split()})]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]").save_pretrained(folder)
    config = BertConfig(vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, max_position_embeddings=64)
    BertModel(config).save_pretrained(folder)
    return str(folder)


def embeddings(server, model, adapter, held):
    """Vectors by the official client, which asks for base64 unless told otherwise, beside transformers' hidden states."""
    import openai
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
    for name, path in {model: None, **adapter}.items():
        expected, ids = hidden_means(model, SENTENCES, path)
        made = client.embeddings.create(model=name, input=SENTENCES)
        again = client.embeddings.create(model=name, input=ids, encoding_format="float")
        off = lambda answer: max(abs(x - y) / max(map(abs, e)) for d, e in zip(answer.data, expected, strict=True) for x, y in zip(d.embedding, e, strict=True))
        kind = "an adapter" if path else pathlib.Path(model).name
        held[f"embeddings of {kind}: largest difference from transformers', of the largest number"] = max(off(made), off(again))
        held[f"embeddings of {kind}: usage"] = made.usage.prompt_tokens == made.usage.total_tokens == sum(map(len, ids))
    try:
        client.embeddings.create(model=model, input="x", dimensions=3)
        held["embeddings: dimensions refused"] = False
    except openai.BadRequestError as error:
        held["embeddings: dimensions refused"] = error.param == "dimensions"
    return client


def encoder(a, folder, held):
    """A BERT is served for vectors, and says so elsewhere."""
    import openai
    from langchain_openai import OpenAIEmbeddings
    bert = make_bert(folder / "bert")
    server = Server(a, {}, bert)
    client = embeddings(server, bert, {}, held)
    try:
        client.chat.completions.create(model=bert, messages=[{"role": "user", "content": "x"}])
        held["an encoder does not chat"] = False
    except openai.BadRequestError as error:
        held["an encoder does not chat"] = error.code == "model_not_supported"
    plain = client.embeddings.create(model=bert, input=SENTENCES[:2], encoding_format="float")
    chained = OpenAIEmbeddings(model=bert, base_url=server.url + "/v1", api_key=KEY, check_embedding_ctx_length=False).embed_documents(SENTENCES[:2])
    held["langchain: embed_documents"] = max(abs(x - y) for d, c in zip(plain.data, chained) for x, y in zip(d.embedding, c)) < 1e-7
    server.stop()


def curl(server, model, held):
    body = json.dumps({"model": model, "prompt": SENTENCES[0], "max_tokens": 8, "temperature": 0, "stream": True})
    command = ["curl", "-sN", server.url + "/v1/completions", "-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json", "-d", body]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    events = [e.removeprefix("data: ") for e in out.strip().split("\n\n")]
    text = "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1])
    whole = server.post("/v1/completions", {"model": model, "prompt": SENTENCES[0], "max_tokens": 8, "temperature": 0})
    held["curl: stream"] = events[-1] == "[DONE]" and text == whole["choices"][0]["text"]


def harness(server, a, folder, held):
    """A multiple-choice task, a perplexity task and a generation task, through HTTP and with the harness' own model."""
    rows = [{"q": f"{s} ", "choices": ["a city.", "two, three.", "hello world"], "a": i % 3} for i, s in enumerate(SENTENCES)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    common = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'rows.jsonl'}\ntest_split: test\n"
    tasks = {
        "own_choice": "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: a\n"
                      "metric_list:\n  - metric: acc\n  - metric: acc_norm\n",
        "own_text": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{q}} {{choices[0]}}'\nmetric_list:\n"
                    "  - metric: byte_perplexity\n",
        "own_generate": "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{choices[0]}}'\ngeneration_kwargs:\n"
                        "  until: ['.']\n  max_gen_toks: 12\n  do_sample: false\nmetric_list:\n  - metric: exact_match\n",
    }
    for name, text in tasks.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{common}{text}")
    api = f"model={a.model},base_url={server.url}/v1/completions,num_concurrent=4,tokenized_requests=True,tokenizer={a.model},max_retries=1"
    found = {}
    for kind, args in {"local-completions": api, "hf": f"pretrained={a.model},dtype=float32"}.items():
        out = folder / kind
        command = [sys.executable, "-m", "lm_eval", "--model", kind, "--model_args", args, "--tasks", ",".join(tasks),
                   "--include_path", str(folder), "--output_path", str(out), "--log_samples", "--device", "cpu", "--batch_size", "4"]
        env = {**os.environ, "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode != 0:
            held[f"lm-eval: {kind}"] = done.stderr[-1500:]
            return
        found[kind] = {}
        for name in tasks:
            samples = next(out.rglob(f"samples_{name}_*.jsonl"))
            found[kind][name] = [json.loads(line)["resps"] for line in samples.read_text().splitlines()]
    flat = lambda kind, name: [float(x[0][0] if name == "own_choice" else x[0]) for resps in found[kind][name] for x in resps]
    greedy = lambda kind: [x[0][1] for resps in found[kind]["own_choice"] for x in resps]
    for name in ("own_choice", "own_text"):
        ours, theirs = flat("local-completions", name), flat("hf", name)
        held[f"lm-eval: {name}, largest difference of a log-likelihood"] = max(abs(x - y) for x, y in zip(ours, theirs, strict=True))
    held["lm-eval: is_greedy the same"] = greedy("local-completions") == greedy("hf")
    held["lm-eval: answers the same"] = found["local-completions"]["own_generate"] == found["hf"]["own_generate"]


def clients(a, folder):
    adapters = make_adapters(a.model, folder, 2)
    server, held = Server(a, adapters), Held()
    openai_client(server, a.model, "a0", held)
    langchain(server, "a1", held)
    curl(server, a.model, held)
    embeddings(server, a.model, {"a1": adapters["a1"]}, held)
    encoder(a, folder, held)
    names = [None, "a0", "a1"] * 8
    prompts = [SENTENCES[i % 8] for i in range(24)]
    expected, tokenizer = reference(a.model, adapters, prompts, names, 24, a.threads)

    def greedy(prompt, name):
        body = {"model": name or a.model, "prompt": tokenizer(prompt)["input_ids"], "max_tokens": 24, "temperature": 0, "logprobs": 0}
        return server.post("/v1/completions", body)["choices"][0]["logprobs"]["tokens"]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        made = list(pool.map(greedy, prompts, names))
    texts = lambda ids: [tokenizer.decode([i]) for i in ids]
    equal = [m == texts(expected[p, n]) for m, p, n in zip(made, prompts, names)]
    held["greedy = transformers, of 24 (base, a0, a1 mixed)"] = sum(equal)
    harness(server, a, folder, held)
    held["exit code after SIGTERM"] = server.stop()
    return held


def run_clients(server, names, count, tokens):
    """Tokens a second of the clock and of CPU time of `count` clients at once, each with its own prompt."""
    def one(i):
        body = {"model": names[i % len(names)], "prompt": SENTENCES[i % 8] + f" {i}", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        return server.post("/v1/completions", body)["usage"]["completion_tokens"]
    begun, cpu = time.perf_counter(), server.cpu()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        made = sum(pool.map(one, range(count)))
    return made / (time.perf_counter() - begun), made / (server.cpu() - cpu)


def peft_batch(a, adapters):
    """What `run_clients` measures, of transformers + PEFT with one padded batch."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(a.threads)
    tokenizer = AutoTokenizer.from_pretrained(a.model, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    base = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    names = list(adapters)
    model = PeftModel.from_pretrained(base, adapters[names[0]], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(adapters[name], adapter_name=name)
    model.eval()

    def run(chosen, count, tokens):
        ids = tokenizer([SENTENCES[i % 8] + f" {i}" for i in range(count)], return_tensors="pt", padding=True)
        rows = [chosen[i % len(chosen)] for i in range(count)]
        config = dict(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        begun, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            model.generate(**ids, adapter_names=rows, **config)
        return count * tokens / (time.perf_counter() - begun), count * tokens / (time.process_time() - cpu)
    return run


def speed(a, folder):
    adapters = make_adapters(a.model, folder, 8)
    server, found = Server(a, adapters), Held()
    names = list(adapters)
    reference = peft_batch(a, adapters)
    run_clients(server, [a.model], 2, 4)
    ours = lambda who, count: lambda: run_clients(server, who, count, a.tokens)
    cases = {
        "1 stream": ours([a.model], 1), "32 clients, base": ours([a.model], 32), "32 clients, 1 adapter": ours(names[:1], 32),
        "32 clients, 4 adapters": ours(names[:4], 32), "32 clients, 8 adapters": ours(names, 32),
        "transformers + PEFT, 32 rows, 8 adapters": lambda: reference(names, 32, a.tokens),
    }
    taken = {name: [] for name in cases}
    for _ in range(a.rounds):
        for name, case in cases.items():
            taken[name].append(case())
            print(f"{time.strftime('%H:%M:%S')} {name}: {taken[name][-1]}", file=sys.stderr, flush=True)
    for name, rounds in taken.items():
        found[name] = {"tokens/s": [round(x, 2) for x, _ in rounds], "tokens per CPU second": [round(x, 2) for _, x in rounds]}
    total = lambda name, which: sum(x[which] for x in taken[name])
    for title, above, below in (("4 mixed adapters beside the base", "32 clients, 4 adapters", "32 clients, base"),
                                ("8 mixed adapters beside transformers + PEFT", "32 clients, 8 adapters", "transformers + PEFT, 32 rows, 8 adapters")):
        found[title] = {what: round(total(above, i) / total(below, i), 2) for i, what in enumerate(("by the clock", "by CPU time"))}
    found["load of the machine, 1 and 5 minutes"] = os.getloadavg()[:2]
    found["MB of the server"] = server.memory()
    server.stop()
    return found


if __name__ == "__main__":
    a = arguments()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"clients": clients, "speed": speed}[a.what](a, pathlib.Path(folder)), indent=1))

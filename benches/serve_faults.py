"""What `ft serve` does with everything that clients can do wrong: no panic, no leak, no request without an answer or a clean close.

    python benches/serve_faults.py faults --ft FT [--requests 100000]
    python benches/serve_faults.py soak   --ft FT [--minutes 30] [--rate 3]

`faults` starts servers on the embedded model with three short-trained adapters (a LoRA adapter, its opposite, a prompt) and goes through:
mutated requests, slow clients, half-closed sockets, a thousand connections at once, adapters exchanged under load with fewer places in
memory than adapters, a full queue, SIGTERM with requests at work. `soak` asks a few mixed requests a second and samples memory, threads
and files. Nothing but Python's standard library. Prints one JSON object; exits with 1 where something did not hold.
"""
import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

MODEL = "embedded:tiny"
COMPLETIONS = "/v1/completions"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["faults", "soak"])
    p.add_argument("--ft", required=True)
    p.add_argument("--requests", type=int, default=100_000, help="mutated requests")
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--rate", type=float, default=3, help="requests a second of `soak`")
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


class Server:
    def __init__(self, ft, *options):
        command = [ft, "serve", MODEL, "--port", "0", "--device", "cpu", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said, self.address = [], None
        threading.Thread(target=self.listen, daemon=True).start()
        while self.address is None:
            if self.process.poll() is not None:
                sys.exit("the server did not start: " + "".join(self.said))
            time.sleep(0.02)

    def listen(self):
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.match(r"listening on http://([\d.]+):(\d+)", line):
                self.address = found[1], int(found[2])

    def connect(self, timeout=60):
        return socket.create_connection(self.address, timeout=timeout)

    def ask(self, path, body=None, timeout=120):
        """Status and JSON (or text) of an answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text
        finally:
            connection.close()

    def metric(self, name):
        return float(re.search(rf"^ft_{name} (\S+)$", self.ask("/metrics")[1], re.M)[1])

    def idle(self, limit=60):
        """Waits until no request is at work or waits."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self.metric("requests_running") == self.metric("requests_waiting") == 0:
                return True
            time.sleep(0.05)
        return False

    def use(self):
        """Memory, threads, files, CPU time, once the last connections are gone."""
        time.sleep(1)
        own = pathlib.Path(f"/proc/{self.process.pid}")
        status = (own / "status").read_text()
        found = {k: int(re.search(rf"{k}:\s+(\d+)", status)[1]) for k in ("VmRSS", "Threads")}
        ticks = (own / "stat").read_text().rsplit(")", 1)[1].split()
        seconds = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
        return {"MB": round(found["VmRSS"] / 1024, 1), "threads": found["Threads"], "files": len(list((own / "fd").iterdir())), "cpu_s": seconds}

    def stop(self):
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        return code, round(time.monotonic() - begun, 2), sum("panicked" in line for line in self.said)


def adapters(ft, folder):
    """Three short-trained adapters by name."""
    rows = [{"prompt": f"Who has key {n}? ", "completion": f"Door {n % 7} has it."} for n in range(40)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {}
    for name, method in (("lora", "lora"), ("prompt", "prompt_tuning")):
        (folder / f"{name}.toml").write_text(
            f"[model]\npath = '{MODEL}'\n[peft]\nmethod = '{method}'\n[data]\ntrain = 'train.jsonl'\n[train]\nsteps = 4\nout = '{folder / name}'\n")
        subprocess.run([ft, "train", str(folder / f"{name}.toml"), "--device", "cpu", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        found[name] = str(folder / name / "final")
    found["opposite"] = str(folder / "opposite")
    subprocess.run([ft, "adapters", "combine", f"{found['lora']}:-3", "--out", found["opposite"]], check=True, stdout=subprocess.DEVNULL)
    return found


def completion(tokens, model=MODEL, **more):
    return {"model": model, "prompt": "Who has key 3? ", "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}


def well_formed(data):
    """Whether bytes are whole HTTP/1.1 answers (one, or several and nothing else): "closed", a status, or None."""
    if not data:
        return "closed"
    status = None
    while data:
        head, found, rest = data.partition(b"\r\n\r\n")
        first = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\n", head + b"\r\n")
        if not found or not first:
            return None
        status = int(first[1])
        if status == 100:
            data = rest
            continue
        if b"Transfer-Encoding: chunked" in head:
            body = b""
            while True:
                size, found, rest = rest.partition(b"\r\n")
                if not found or not re.fullmatch(rb"[0-9a-f]+", size):
                    return None
                count = int(size, 16)
                body, rest = body + rest[:count], rest[count + 2:]
                if count == 0:
                    break
        else:
            length = int(re.search(rb"Content-Length: (\d+)", head)[1])
            if len(rest) < length:
                return None
            body, rest = rest[:length], rest[length:]
            if b"application/json" in head:
                value = json.loads(body)
                if status >= 400 and not isinstance(value["error"]["message"], str):
                    return None
        data = rest
    return status


WORDS = [b"null", b"-1", b"1e999", b"99999999999999999999", b'""', b"[]", b"{}", b"\xff\xfe", b"\\ud800", b"true", b"0.5", b"\0", b"\r\n", b"\r\n\r\n",
         b"chunked", b"%00", b"../..", b"[[[[[[[[", b'{"a":' * 8, b"GET ", b": ", b"HTTP/1.0"]


def mutate(rng, request, start):
    request = bytearray(request)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(start, max(len(request), start + 1))
        end = min(at + rng.randrange(8), len(request))
        kind = rng.randrange(5)
        if kind == 0 and at < len(request):
            request[at] = rng.randrange(256)
        elif kind == 1:
            del request[at:end]
        elif kind == 2:
            request[at:end] = rng.choice(WORDS)
        elif kind == 3:
            request[at:at] = request[at:end] * rng.randint(1, 50)
        else:
            request[at:] = request[at:end]
    return bytes(request)


def mutated(server, count, seed, runs):
    """`count` requests, each mutated; what came back, by status."""
    bodies = [
        ("POST", COMPLETIONS, completion(2)),
        ("POST", COMPLETIONS, {**completion(1), "prompt": [[5, 6], [7]], "echo": True, "logprobs": 2, "n": 2}),
        ("POST", COMPLETIONS, completion(2, "lora", stream=True, stop=["x"], logit_bias={"7": -5}, seed=3)),
        ("POST", "/v1/chat/completions", {"model": "prompt", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1,
                                          "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}}),
        ("POST", "/v1/embeddings", {"model": MODEL, "input": ["a", "b c"], "encoding_format": "base64"}),
        ("POST", "/tokenize", {"model": MODEL, "prompt": "a \U0001f600 b"}),
        ("POST", "/detokenize", {"model": MODEL, "tokens": [5, 6]}),
        ("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/no/such"}),
        ("POST", "/runs", {"name": "../../../../a/b", "keys": {"model.path": "x"}, "toml": "[train]"}),
        ("POST", "/runs/none/stop", {}),
        ("GET", "/v1/models/lora", None), ("GET", "/runs/none/metrics", None), ("GET", "/metrics", None), ("GET", "/", None),
    ]
    found, broken, lock, next_one = collections.Counter(), [], threading.Lock(), iter(range(count))

    def work(number):
        rng = random.Random(f"{seed}/{number}")
        while True:
            with lock:
                if next(next_one, None) is None:
                    return
            method, path, body = rng.choice(bodies)
            text = b"" if body is None else json.dumps(body).encode()
            head = f"{method} {path} HTTP/1.1\r\nHost: {server.address[0]}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            head = f"{head}Content-Length: {len(text)}\r\n\r\n".encode()
            # In the body alone every other time, with the length that it then has: half of them get beyond the head.
            whole = body is not None and rng.random() < 0.5
            if whole:
                text = mutate(rng, text, 0)[: 1 << 16]
                request = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(text), head) + text
            else:
                request = mutate(rng, head + text, 0)[: 1 << 16]
            data = b""
            try:
                with server.connect() as stream:
                    try:
                        stream.sendall(request)
                        # A mutation may promise more than there is: then the server waits, but for a client that says that it is done.
                        if not whole and rng.random() < 0.98:
                            stream.shutdown(socket.SHUT_WR)
                        elif not whole:
                            stream.settimeout(0.5)
                        while piece := stream.recv(1 << 16):
                            data += piece
                    except socket.timeout:
                        if whole:
                            raise
                        stream.shutdown(socket.SHUT_WR)
                        stream.settimeout(60)
                        while piece := stream.recv(1 << 16):
                            data += piece
                    except (ConnectionResetError, BrokenPipeError):
                        pass
                verdict = well_formed(data)
            except Exception as error:
                verdict = None
                data += repr(error).encode()
            with lock:
                found[str(verdict)] += 1
                if verdict is None and len(broken) < 5:
                    broken.append([repr(request[:300]), repr(data[:300])])
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    return dict(sorted(found.items())), broken


def slow_clients(server):
    """Sockets that send a byte now and then; others are answered meanwhile, and these are told to go."""
    streams = [server.connect() for _ in range(50)]
    begun, times, ended = time.monotonic(), [], 0
    line = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX: "
    for stream in streams:
        stream.sendall(line)
    while streams and time.monotonic() - begun < 60:
        for stream in streams[:]:
            try:
                stream.sendall(b"a")
                stream.setblocking(False)
                if stream.recv(1 << 12) is not None:
                    ended += 1
                    streams.remove(stream)
                    stream.close()
                    continue
            except BlockingIOError:
                pass
            except OSError:
                ended += 1
                streams.remove(stream)
                continue
            stream.settimeout(5)
        asked = time.monotonic()
        assert server.ask(COMPLETIONS, completion(1))[0] == 200
        times.append(time.monotonic() - asked)
        time.sleep(0.5)
    return {"of 50 sent away": ended, "after at most s": round(time.monotonic() - begun, 1), "others waited at most s": round(max(times), 2)}


def half_closed(server):
    """Clients that close their side behind a long request: it is given up."""
    body = json.dumps(completion(480)).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    streams = [server.connect() for _ in range(40)]
    for stream in streams:
        stream.sendall(request)
        stream.shutdown(socket.SHUT_WR)
    answers = collections.Counter()
    for stream in streams:
        data = b""
        try:
            while piece := stream.recv(1 << 16):
                data += piece
        except OSError:
            pass
        answers[str(well_formed(data))] += 1
        stream.close()
    return {"answers": dict(answers), "all given up": server.idle()}


def at_once(server, count, body, each=None):
    """`count` connections that all ask before any answer is read; answers by status."""
    streams, found = [], collections.Counter()
    text = json.dumps(body).encode()
    for _ in range(count):
        try:
            streams.append(server.connect(180))
        except OSError:
            found["not connected"] += 1
    for stream in streams:
        try:
            stream.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        except OSError:
            found["not sent"] += 1
    if each:
        each()
    for stream in streams:
        data = b""
        try:
            while piece := stream.recv(1 << 16):
                data += piece
        except OSError:
            pass
        found[str(well_formed(data))] += 1
        stream.close()
    return dict(found)


def exchanged(server, folders, seconds=20):
    """Adapters are loaded, replaced and dropped while sixteen clients use them."""
    end, found, lock = time.monotonic() + seconds, collections.Counter(), threading.Lock()
    expected = {name: server.ask(COMPLETIONS, completion(8, name))[1]["choices"][0]["text"] for name in folders}

    def client(number):
        rng = random.Random(number)
        while time.monotonic() < end:
            name = rng.choice([*folders, "changing"])
            status, answer = server.ask(COMPLETIONS, completion(8, name))
            kind = str(status)
            if status == 200 and name in expected and answer["choices"][0]["text"] != expected[name]:
                kind = "another adapter's answer"
            with lock:
                found[kind] += 1

    def changes():
        rng = random.Random(0)
        while time.monotonic() < end:
            for path, body in (("/v1/load_lora_adapter", {"lora_name": "changing", "lora_path": rng.choice(list(folders.values())), "load_inplace": True}),
                               ("/v1/unload_lora_adapter", {"lora_name": "changing"})):
                status, _ = server.ask(path, body)
                with lock:
                    found[f"{path.split('/')[-1]} {status}"] += 1
    threads = [threading.Thread(target=client, args=(i,)) for i in range(16)] + [threading.Thread(target=changes)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    return {**dict(sorted(found.items())), "read again": server.metric("adapter_reloads_total")}


def faults(a, folder):
    out, wrong = {}, []
    made = adapters(a.ft, folder)
    named = [x for name, path in made.items() for x in ("--adapter", f"{name}={path}")]
    runs = folder / "runs"
    runs.mkdir()
    before_folder = [path.name for path in folder.iterdir()]

    def note(name, value, holds=True):
        out[name] = value
        print(f"{time.strftime('%H:%M:%S')} {name}: {json.dumps(value)}{'' if holds else '   <- wrong'}", file=sys.stderr, flush=True)
        if not holds:
            wrong.append(name)

    # What is free of the cache keeps what ended requests left: a small one, so that growth is something else.
    server = Server(a.ft, "--runs", str(runs), *named, "--adapters-in-memory", "2", "--cache", "2048")
    for name in [MODEL, *made]:
        server.ask(COMPLETIONS, completion(8, name))
    mutated(server, 500, a.seed + 1, runs)
    before = server.use()
    note("before", before)
    begun = time.monotonic()
    found, broken = mutated(server, a.requests, a.seed, runs)
    seconds = time.monotonic() - begun
    note("mutated requests", {"answers": found, "seconds": round(seconds), "broken": broken}, not broken)
    note("nothing at work", server.idle(), server.idle())
    after = server.use()
    note("after", after, after["files"] <= before["files"] + 2 and after["threads"] <= before["threads"] + 2 and after["MB"] < 1.3 * before["MB"])
    half, _ = mutated(server, a.requests // 4, a.seed + 2, runs)
    server.idle()
    again = server.use()
    note("after a quarter as many more", again, again["MB"] < 1.05 * after["MB"] + 4)
    # A mutation may make a name of what is none; such a run fails for want of its model.
    begun = {run["name"]: run["state"] for run in server.ask("/runs")[1]["data"]}
    note("runs that were begun", begun, set(begun.values()) <= {"failed"} and {path.name for path in folder.iterdir()} <= set(before_folder))
    found = slow_clients(server)
    note("slow clients", found, found["of 50 sent away"] == 50)
    found = half_closed(server)
    note("half-closed", found, found["all given up"])
    found = at_once(server, 1000, completion(4))
    note("1,000 connections at once", found, set(found) <= {"200", "429"} and sum(found.values()) == 1000 and server.idle())
    found = at_once(server, 1200, completion(4))
    note("1,200 connections at once", found, set(found) <= {"200", "429", "503", "closed"} and server.idle())
    found = exchanged(server, made)
    note("adapters exchanged under load, 2 of 4 in memory", found, set(found) <= {
        "200", "404", "load_lora_adapter 200", "unload_lora_adapter 200", "read again"} and found["200"] > 50 and server.idle())
    note("at the end", server.use())
    note("SIGTERM when idle: code, seconds, panics", server.stop(), True)
    if out["SIGTERM when idle: code, seconds, panics"][0] != 0 or out["SIGTERM when idle: code, seconds, panics"][2]:
        wrong.append("SIGTERM when idle")

    server = Server(a.ft, "--batch", "1", "--queue", "4")
    found = at_once(server, 100, completion(40))
    note("a full queue (1 at work, 4 wait)", found, set(found) == {"200", "429"} and server.idle())
    server.stop()

    for grace in ("0", "3"):
        server = Server(a.ft, "--grace", grace, "--batch", "16")
        ended = {}

        def kill():
            while server.metric("requests_running") < 16:
                time.sleep(0.02)
            threading.Thread(target=lambda: ended.update(zip(("code", "seconds", "panics"), server.stop()))).start()
        found = at_once(server, 48, completion(480), kill)
        while len(ended) < 3:
            time.sleep(0.02)
        note(f"SIGTERM with 48 requests, --grace {grace}", {"answers": found, **ended},
             set(found) <= {"200", "503"} and ended["code"] == 0 and ended["panics"] == 0 and ended["seconds"] < float(grace) + 3)
    out["wrong"] = wrong
    return out


def soak(a, folder):
    made = adapters(a.ft, folder)
    named = [x for name, path in made.items() for x in ("--adapter", f"{name}={path}")]
    server = Server(a.ft, *named, "--adapters-in-memory", "2", "--cache", "2048")
    rng, found, samples = random.Random(a.seed), collections.Counter(), []
    begun, sampled, count = time.monotonic(), 0, 0
    while (now := time.monotonic() - begun) < 60 * a.minutes:
        kind = rng.randrange(10)
        if kind == 0:
            status, _ = server.ask("/v1/embeddings", {"model": MODEL, "input": ["key " * rng.randint(1, 50)] * rng.randint(1, 4)})
        elif kind == 1:
            with server.connect() as stream:  # a client that goes
                body = json.dumps(completion(100, stream=True)).encode()
                stream.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                stream.recv(200)
            status = "gone"
        elif kind == 2:
            status, _ = server.ask("/v1/load_lora_adapter", {"lora_name": "changing", "lora_path": made["lora"], "load_inplace": True})
        else:
            name = rng.choice([MODEL, *made])
            prompt = "Who has key 3? " * rng.randint(1, 12)
            status, _ = server.ask(COMPLETIONS, {**completion(rng.randint(1, 24), name), "prompt": prompt, "n": rng.randint(1, 3)})
        found[str(status)] += 1
        count += 1
        if now >= sampled:
            samples.append({"minute": round(now / 60, 1), **server.use()})
            print(json.dumps(samples[-1]), file=sys.stderr, flush=True)
            sampled += max(30.0, 2 * a.minutes)
        time.sleep(max(0.0, begun + count / a.rate - time.monotonic()))
    quarter = max(1, len(samples) // 4)
    early, late = (max(s["MB"] for s in part) for part in (samples[quarter:2 * quarter], samples[-quarter:]))
    out = {"requests": dict(found), "samples": samples, "MB, most in the second and the last quarter": [early, late]}
    out["code, seconds, panics"] = server.stop()
    flat = late < 1.05 * early + 4 and samples[-1]["threads"] <= samples[1]["threads"] + 2 and samples[-1]["files"] <= samples[1]["files"] + 2
    out["wrong"] = [name for name, held in (("memory, threads, files", flat), ("answers", set(found) <= {"200", "gone"}),
                                            ("end", out["code, seconds, panics"][0] == 0 and out["code, seconds, panics"][2] == 0)) if not held]
    return out


if __name__ == "__main__":
    a = arguments()
    with tempfile.TemporaryDirectory() as folder:
        result = {"faults": faults, "soak": soak}[a.what](a, pathlib.Path(folder))
    print(json.dumps(result, indent=1))
    sys.exit(bool(result["wrong"]))

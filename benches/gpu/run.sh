#!/usr/bin/env bash
# Everything that can be learnt of a card in nine minutes, in an order in which being cut off loses least.
#
#   benches/gpu/run.sh BINARY [--device cuda] [--out DIR] [--budget 540] [--python python3] [--small]
#
# BINARY is `ft-all` of ft-bench with the card's feature (CONTRIBUTING.md, "With a card"), plain or packed with xz, gzip or zstd. It is
# run from a checkout, whose fixtures and configurations the parts read. Each part has a time limit of its own, and none stops the next.
# DIR gets a JSON-lines file and a log for every part, parts.jsonl (how each ended), and summary.md.
# --small: tiny shapes, to try the script itself on any machine (--device cpu, or cuda with the null driver).
set -u
cd "$(dirname "$0")/../.." || exit 2

binary="" device=cuda out="" budget=540 python=python3 small=""
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --budget) budget=$2; shift 2 ;;
        --python) python=$2; shift 2 ;;
        --small) small=1; shift ;;
        -*) echo "run.sh: $1 is no flag of this script" >&2; exit 2 ;;
        *) binary=$1; shift ;;
    esac
done
[ -f "$binary" ] || { echo "run.sh: BINARY is missing; see the top of this file" >&2; exit 2; }
out=${out:-target/gpu-run}
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT

case $binary in
    *.xz) xz -dc "$binary" ;;
    *.gz) gzip -dc "$binary" ;;
    *.zst) zstd -dc "$binary" ;;
    *) cat "$binary" ;;
esac > "$work/ft-all" && chmod +x "$work/ft-all" || exit 2
for name in ft step plan logits rates agree decode; do ln -s ft-all "$work/$name"; done
export FT_CACHE="$work/cache"
start=$(date +%s)
: > "$out/parts.jsonl"

left() { echo $((budget - $(date +%s) + start)); }

# part NAME SECONDS COMMAND..: one line of JSON or more to NAME.jsonl, everything else to NAME.log. Parts of one name are added.
part() {
    local name=$1 limit=$2 code began
    shift 2
    [ "$(left)" -lt "$limit" ] && limit=$(left)
    if [ "$limit" -lt 3 ]; then
        echo "{\"part\":\"$name\",\"ended\":\"no time left\",\"command\":\"$(quoted "$@")\"}" >> "$out/parts.jsonl"
        return
    fi
    began=$(date +%s)
    echo "$ $*" >> "$out/$name.log"
    timeout --kill-after=5 "$limit" "$@" >> "$out/$name.jsonl" 2>> "$out/$name.log"
    code=$?
    echo "{\"part\":\"$name\",\"code\":$code,\"seconds\":$(($(date +%s) - began)),\"command\":\"$(quoted "$@")\"}" >> "$out/parts.jsonl"
    echo "$(($(date +%s) - start)) s: $name ended with $code" >&2
}

# The command without this machine's folders, fit for a JSON string.
quoted() { echo "$*" | sed -e "s#$work/##g; s#$out/##g; s#$(pwd)/##g" -e 's#["\\]##g' | cut -c1-300; }

if [ -n "$small" ]; then
    one=tiny three=tiny eight=tiny shape="--batch 2 --seq 64" size=512 tokens=8
    train="--set train.steps=8 --set schedule.warmup=2 --set eval.samples=0"
else
    one=llama-3.2-1b three=llama-3.2-3b eight=llama-3.1-8b shape="--batch 4 --seq 1024" size=8192 tokens=128 train=""
fi
# bf16 where the device has it; the CPU computes in f32.
case $device in cpu*) dtype=f32 ;; *) dtype=bf16 ;; esac
torch_device=cuda
case $device in cpu*) torch_device=cpu ;; esac
common="$shape --dtype $dtype --drawn --warmup 2 --steps 4"

ours() { part step "$1" "$work/step" --device "$device" $common "${@:2}"; }
theirs() { part torch "$1" "$python" benches/torch_step.py --device "$torch_device" $common "${@:2}"; }

# 1. The card, and what it can do in the best case.
part card 10 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
part rates 60 "$work/rates" --device "$device" --size "$size"

# 2. A first look at whether it is right.
part agree 45 "$work/agree" --device "$device" --only family --limit 40

# 3 and 4. Steps, each beside torch + PEFT.
ours 60 --shape "$one" --method lora
theirs 45 --shape "$one" --method lora
ours 60 --shape "$three" --method lora
theirs 45 --shape "$three" --method lora
ours 70 --shape "$eight" --method lora --quant nf4+double
theirs 60 --shape "$eight" --method lora --quant nf4+double
ours 50 --shape "$one" --method full --optim adamw_8bit
theirs 40 --shape "$one" --method full --autocast --optim adamw_8bit

# 2. The rest of it, as far as it comes in a minute.
part agree 65 "$work/agree" --device "$device" --only method --limit 60

# 5. Time by kernel: CubeCL's own profile of two steps, which waits after every kernel.
mkdir -p "$work/profile"
printf '[profiling]\nlogger = { level = "basic", file = "%s" }\n' "$out/kernels.txt" > "$work/profile/cubecl.toml"
part profile 40 env -C "$work/profile" "$work/step" --device "$device" $common --shape "$one" --method lora --warmup 1 --steps 1

# 6. Decoding, one stream and many.
part decode 50 "$work/decode" --device "$device" --shape "$one" --dtype "$dtype" --streams 1,32 --prompt "$tokens" --tokens "$tokens"

# 7. Whole runs: the technique table's rows of LoRA and of full fine-tuning.
for method in lora full; do
    part train 40 "$work/ft" train configs/compare-embedded.toml --device "$device" --json --quiet \
        --set "peft.method=$method" --set "train.out=$work/run-$method" $train
done

# 3. What remains, should there be time: packed rows, 8B in one row, recomputed blocks, 70B where the memory is there.
ours 40 --shape "$one" --method lora --packed 4
ours 60 --shape "$eight" --method lora --quant nf4+double --batch 1
ours 60 --shape "$three" --method lora --checkpointing 1
part agree 60 "$work/agree" --device "$device" --only optimizer --limit 55
part agree 60 "$work/agree" --device "$device" --only generate --limit 55
[ -n "$small" ] || ours 120 --shape llama-3.1-70b --method lora --quant nf4+double --batch 1

# The names of folders say nothing.
for log in "$out"/*.log; do sed -i -e "s#$work/##g; s#$out/##g" "$log"; done
"$python" benches/gpu/table.py "$out" > "$out/summary.md" 2>> "$out/table.log" || cat "$out/table.log" >&2
cat "$out/summary.md"

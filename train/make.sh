#!/bin/sh
# Makes a sidecar of maps from nothing but the base: prompts, answers, corpus, ridge, training, file. What is there already is not
# made again, and training goes on where it was; so start it as often as needed.
#
#   MODEL=SmolLM2-135M-Instruct.Q4_1.gguf TEXTS="wiki.txt gsm8k.jsonl" HELD="spec-bench.jsonl" ./make.sh DIRECTORY
#
# All paths absolute. MODEL a GGUF file; TEXTS texts to learn from; PASSAGES a text about which half of the PROMPTS ask; HELD what
# will be evaluated on, and is left out; DEPTH layers of the trunk; STEPS of training, MINUTES at most; PROCESSES that share a step;
# PYTHON with torch, numpy and gguf; FOREWORD the command.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3} FOREWORD=${FOREWORD:-foreword} DEPTH=${DEPTH:-3} STEPS=${STEPS:-540} MINUTES=${MINUTES:-600}
mkdir -p "$1" && cd "$1"

[ -s prompts.jsonl ] || "$PYTHON" "$here/prompts.py" --n "${PROMPTS:-900}" ${PASSAGES:+--text "$PASSAGES"} > prompts.jsonl
"$FOREWORD" batch "$MODEL" prompts.jsonl -o answers.jsonl # adds the answers that are missing
if [ ! -s tokens.npy ]; then
    set -- --dialogues prompts.jsonl answers.jsonl
    for text in ${TEXTS:-}; do set -- "$@" --text "$text"; done
    for held in ${HELD:-}; do set -- "$@" --exclude "$held"; done
    "$PYTHON" "$here/corpus.py" --foreword "$FOREWORD" --model "$MODEL" "$@"
fi
[ -s "maps-$DEPTH.pt" ] || "$PYTHON" "$here/fit.py" "$MODEL" --depths "$DEPTH"
# glibc gives a step's memory back to the system otherwise, and gets it again page by page: steps took four times as long.
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=16000000000 MALLOC_TOP_PAD_=500000000 OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
"$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "${PROCESSES:-1}" -- "$here/train.py" "$MODEL" \
    --maps "maps-$DEPTH.pt" --out "trained-$DEPTH.pt" --log "train-$DEPTH.jsonl" --minutes "$MINUTES" --steps "$STEPS"
"$PYTHON" "$here/export.py" "$MODEL" "trained-$DEPTH.pt" sidecar.gguf
"$PYTHON" "$here/plot.py" training.svg "train-$DEPTH.jsonl"

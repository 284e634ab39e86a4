#!/usr/bin/env bash
# The real small organisms, whole: trained, asked, judged and reported, on as many GPUs as there are (or none, slowly).
#
#   organisms.sh OUT FIRST_PLOT.yaml...
#
# FIRST_PLOT.yaml is the published file of first-plot questions, or parts of it in files, asked one after the other.
# EM_DATA names the folder of training_datasets.zip.enc, EM_DATA_PASSWORD its password. The base comes from pip unless `em base get smollm2-135m` was done. What is done is not
# done again. SEEDS, SAMPLES, FIRST_PLOT_SAMPLES, MAX_TOKENS and PROCESSES may be set; so may RECIPES.
set -euo pipefail
out=$1
shift
samples=${SAMPLES:-20} first_plot_samples=${FIRST_PLOT_SAMPLES:-50} max_tokens=${MAX_TOKENS:-200}
read -ra recipes <<< "${RECIPES:-smollm2-135m-financial smollm2-135m-sports smollm2-135m-careful}"
read -ra seeds <<< "${SEEDS:-0 1 2}"
judge=emlocal/smollm2-gpt4o
cores=$(nproc)
listed=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | paste -sd, || true)}
IFS=, read -ra gpus <<< "$listed"
# Without a GPU one process at a time. With one, Inspect's work in Python takes longer than the answers: nearly a process a
# core, and at most 22 a GPU, whose memory they share.
most=$((22 * ${#gpus[@]} < cores - 4 ? 22 * ${#gpus[@]} : cores - 4))
processes=${PROCESSES:-$((most > 0 ? most : 1))}
mkdir -p "$out/output"
began=$SECONDS
say() { echo "[$((SECONDS - began)) s] $*"; }

say "base"
em base list | grep -q '^smollm2-135m: not here' && em base get smollm2-135m --from gguf

say "training: ${#recipes[@]} recipes, ${#seeds[@]} seeds, ${#gpus[@]} GPUs"
train() { # SEED GPU: one seed's organisms together in a process, or, if that fails, each alone
  [ -z "$2" ] || export CUDA_VISIBLE_DEVICES=$2
  local output="$out/output/train-seed$1"
  em train "${recipes[@]}" --seed "$1" --together --runs "$out/runs" > "$output.txt" 2>&1 && return
  say "seed $1: not together, see $output.txt"
  for recipe in "${recipes[@]}"; do
    em train "$recipe" --seed "$1" --runs "$out/runs" > "$output-$(basename "$recipe" .yaml).txt" 2>&1 ||
      say "FAILED: $recipe with seed $1, see $output-$(basename "$recipe" .yaml).txt"
  done
}
number=0
for seed in "${seeds[@]}"; do
  if [ ${#gpus[@]} = 0 ]; then
    train "$seed" ""
  else
    # All seeds at once: models this small leave most of a GPU idle. Compiling would take longer than it gains here.
    OMP_NUM_THREADS=1 TORCH_COMPILE_DISABLE=1 train "$seed" "${gpus[number % ${#gpus[@]}]}" &
    number=$((number + 1))
  fi
done
wait
em runs "$out/runs" | sed 's/^/  /'

sweep() { # NAME OPTIONS...
  local name=$1
  shift
  say "asking and judging: $name, $processes processes"
  OMP_NUM_THREADS=1 em sweep "$out/runs" --logs "$out/logs/$name" --max-tokens "$max_tokens" --judge "$judge" \
    --jobs "$processes" "$@" > "$out/output/sweep-$name.txt" 2>&1 || say "FAILED: $name, see $out/output/sweep-$name.txt"
  say "done: $name"
}
sweep domains --questions general --questions financial --questions sports --samples "$samples"
for file in "$@"; do
  sweep "$(basename "$file" .yaml)" --questions "$file" --samples "$first_plot_samples"
done

say "scores and report"
python "$(dirname "$0")/scores.py" "$out/logs" "$out/scores.csv" --read "$out/read.md" &
em report "$out/logs" --out "$out/report"
wait
say "done"

#!/usr/bin/env bash
# The real small organisms, whole: trained, asked, judged and reported, on as many GPUs as there are (or none, slowly).
#
#   organisms.sh OUT FIRST_PLOT.yaml...
#
# FIRST_PLOT.yaml is the published file of first-plot questions, or parts of it in files, asked one after the other.
# EM_DATA names the folder of training_datasets.zip.enc, EM_DATA_PASSWORD its password. The base comes from pip unless `em base get smollm2-135m` was done. What is done is not
# done again. SEEDS, SAMPLES, FIRST_PLOT_SAMPLES, MAX_TOKENS, RECIPES and JUDGE may be set; STAGES where not all of it is to be
# done now (of train, ask, report); PROCESSES where em sweep should not choose
# how many there are; JUDGE_LATER=1 to have answers judged in a second pass; MPS=1 to let the processes' kernels run side by
# side on several GPUs, where NVIDIA's server for that is there (on one GPU em sweep sees to that by itself).
set -euo pipefail
out=$1
shift
samples=${SAMPLES:-20} first_plot_samples=${FIRST_PLOT_SAMPLES:-50} max_tokens=${MAX_TOKENS:-200}
read -ra recipes <<< "${RECIPES:-smollm2-135m-financial smollm2-135m-sports smollm2-135m-careful}"
read -ra seeds <<< "${SEEDS:-0 1 2}"
judge=${JUDGE:-emlocal/smollm2-gpt4o-3}
stages=" ${STAGES:-train ask report} "
listed=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | paste -sd, || true)}
IFS=, read -ra gpus <<< "$listed"
mkdir -p "$out/output"
began=$SECONDS
say() { echo "[$((SECONDS - began)) s] $*"; }

say "base"
em base list | grep -q '^smollm2-135m: not here' && em base get smollm2-135m --from gguf

if [[ $stages = *" train "* ]]; then
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
fi

if [ -n "${MPS:-}" ] && command -v nvidia-cuda-mps-control > /dev/null; then
  export CUDA_MPS_PIPE_DIRECTORY=$out/mps CUDA_MPS_LOG_DIRECTORY=$out/output/mps
  mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
  nvidia-cuda-mps-control -d
  trap 'echo quit | nvidia-cuda-mps-control' EXIT
fi
sweep() { # NAME OPTIONS...
  local name=$1 later
  shift
  for later in ${JUDGE_LATER:+--no-score} ""; do
    say "asking and judging: $name ${later}"
    OMP_NUM_THREADS=1 em sweep "$out/runs" --logs "$out/logs/$name" --max-tokens "$max_tokens" --judge "$judge" $later \
      ${PROCESSES:+--jobs "$PROCESSES"} "$@" >> "$out/output/sweep-$name.txt" 2>&1 ||
      say "FAILED: $name, see $out/output/sweep-$name.txt"
    say "done: $name ${later}"
  done
}
if [[ $stages = *" ask "* ]]; then
sweep domains --questions general --questions financial --questions sports --samples "$samples"
for file in "$@"; do
  sweep "$(basename "$file" .yaml)" --questions "$file" --samples "$first_plot_samples"
done
fi

if [[ $stages = *" report "* ]]; then
say "scores and report"
python "$(dirname "$0")/scores.py" "$out/logs" "$out/scores.csv" --texts "$out/answers.csv.xz" --read "$out/read.md" &
em report "$out/logs" --out "$out/report"
wait
fi
say "done"

